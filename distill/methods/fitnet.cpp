#include <fmt/core.h>

#include <cmath>
#include <deque>
#include <optional>

#include "core/ops/conv2d_transpose.h"
#include "core/ops/feature_l2.h"
#include "core/ops/loss_select.h"
#include "distill/logit_loss.h"
#include "distill/methods/methods.h"
#include "nn/layers.h"

namespace cohort::distill {
namespace {

// From a student's map to the shape of its teacher's: a convolution by the ratio of their sizes, batch
// normalisation, ReLU. Size of student : teacher
//   2 : 1       3x3, stride 2, padding 1
//   1 : 2       transposed 4x4, stride 2, padding 1
//   otherwise   as many pixels as the student's has more, and one: 1x1 where they agree
// The convolution has a bias, as in the published code; the transposed one has none, for batch normalisation
// takes any off again.
class Regressor {
 public:
  Regressor(const Shape& student, const Shape& teacher) {
    const std::int64_t in = student[3], out = teacher[3];
    const auto doubled = [](const Shape& large, const Shape& small) {
      return large[1] == 2 * small[1] && large[2] == 2 * small[2];
    };
    nn::Conv2d::Options options{.bias = true, .init = nn::ConvInit::kPyTorch};
    if (doubled(teacher, student)) {
      // PyTorch's bounds for a transposed convolution count the window of one input channel.
      transposed_ =
          parameters_.add("regressor.conv.weight", {in, 4, 4, out}, ParameterKind::kConv,
                          {Initializer::Kind::kUniform, 1.0 / std::sqrt(16.0 * static_cast<double>(out))});
    } else {
      const std::int64_t more = student[1] - teacher[1];
      if (doubled(student, teacher)) {
        options.stride = 2;
      } else if (more < 0 || more != student[2] - teacher[2]) {
        throw Error(ErrorKind::kUsage,
                    fmt::format("fitnet: no regressor leads from maps of {}x{} to {}x{}", student[1],
                                student[2], teacher[1], teacher[2]),
                    "the student's map is at least as large as the teacher's, or half as large: choose "
                    "another distill.fitnet.hint");
      } else {
        options.kernel = static_cast<int>(more) + 1;
        options.padding = 0;
      }
      conv_.emplace(parameters_, "regressor.conv", in, out, options);
    }
    bn_.emplace(parameters_, "regressor.bn", out);
  }

  void materialize(Context& ctx, int member) {
    materialize_part(ctx, parameters_, 0xf17'0e7'0000'0001ULL, member);
  }

  Tensor forward(Context& ctx, const Tensor& x) const {
    const Tensor y = conv_ ? conv_->forward(ctx, x) : ops::conv2d_transpose(ctx, x, transposed_->compute, {});
    return bn_->forward(ctx, y, {.training = true, .relu = true});
  }

  ParameterSet& parameters() { return parameters_; }

 private:
  ParameterSet parameters_;
  std::optional<nn::Conv2d> conv_;
  Parameter* transposed_ = nullptr;
  std::optional<nn::BatchNorm2d> bn_;
};

// Romero et al., "FitNets: hints for thin deep nets", ICLR 2015, in the single stage of the distillation
// codes. Member 0 is the teacher: frozen, evaluation mode.
//
//   L_s = CE_s + w MSE(Reg(F_s), F_t), mean over all elements; F: the map of one middle stage
class FitNet final : public Method {
 public:
  explicit FitNet(const MethodOptions& options)
      : value_(options.number("fitnet.weight")),
        hint_(static_cast<std::size_t>(options.integer("fitnet.hint"))),
        identity_(options.choice("fitnet.regressor") == 1) {}

  std::string formula(int members) const override {
    return fmt::format(
        "net 0: frozen teacher; net 1..{}: CE(z_i, y) + {:g} MSE({}, F_0), F = map f{} after activation, MSE "
        "over all elements, teacher in evaluation mode",
        members - 1, value_, identity_ ? "F_i" : "relu(bn(conv(F_i)))", hint_);
  }

  void check_members(int members) const override {
    Method::check_members(members);
    check_teacher_and_student("fitnet", members);
  }

  bool frozen(int member) const override { return member == 0; }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    weights_ = LossWeights::make(ctx, static_cast<int>(probe.size()));
    weight_ = constant(ctx, {}, {value_});
    const Shape& teacher = hint(probe[0]).shape;
    for (std::size_t student = 1; student < probe.size(); ++student) {
      const Shape& own = hint(probe[student]).shape;
      if (!identity_) {
        regressors_.emplace_back(own, teacher).materialize(ctx, static_cast<int>(student));
      } else if (own != teacher) {
        throw Error(ErrorKind::kUsage,
                    fmt::format("fitnet.regressor=identity: network {} has maps of another shape than the "
                                "teacher, {} and {}",
                                student, own.to_string(), teacher.to_string()),
                    "distill.fitnet.regressor=auto");
      }
    }
  }

  std::vector<ParameterSet*> extra_parameters(int member) override {
    if (identity_ || member == 0) return {};
    return {&regressors_[static_cast<std::size_t>(member) - 1].parameters()};
  }

  void losses(Context& ctx, StepView& view) override { logit_losses(ctx, view, weights_, {}); }

  void feature_losses(Context& ctx, StepView& view, int member) override {
    const auto i = static_cast<std::size_t>(member);
    Tensor own = hint(view.outputs[i]);
    if (!identity_) own = regressors_[i - 1].forward(ctx, own);
    const Tensor value =
        ops::feature_l2(ctx, own, hint(view.outputs[0]).detached(), weight_,
                        {.valid_rows = view.valid_rows, .loss = ops::entry(view.report.loss, member)});
    view.report.feature_terms.push_back({member, weight_, value});
  }

 private:
  // A network that shows a single map, as arrays of `cohort loss` may, shows the hint.
  const Tensor& hint(const models::Outputs& outputs) const {
    const std::vector<Tensor>& stages = outputs.stages;
    if (stages.size() == 1) return stages[0];
    if (hint_ < stages.size()) return stages[hint_];
    throw Error(ErrorKind::kUsage, fmt::format("fitnet: there is no map f{} among {}", hint_, stages.size()),
                "distill.fitnet.hint counts from 0, the stem's; cohort loss needs features_K");
  }

  double value_;
  std::size_t hint_;
  bool identity_;
  LossWeights weights_;
  Tensor weight_;
  std::deque<Regressor> regressors_;  // of members 1 ...
};

}  // namespace

MethodInfo fitnet_info() {
  return {
      .name = "fitnet",
      .summary = "a frozen teacher's middle feature map is a hint for the students'",
      .equation = "L_s = CE_s + w MSE(relu(bn(conv(F_s))), F_t)",
      .paper = "Romero et al., FitNets: hints for thin deep nets, ICLR 2015",
      .options = {{.key = "fitnet.weight",
                   .default_value = "100",
                   .help = "weight of the squared error, a mean over all elements",
                   .min = 0},
                  {.key = "fitnet.hint",
                   .type = OptionType::kInteger,
                   .default_value = "2",
                   .help = "which map is the hint, of both networks: 0 the stem's, 1 the first stage's, ...",
                   .min = 0,
                   .max = 99},
                  {.key = "fitnet.regressor",
                   .type = OptionType::kChoice,
                   .default_value = "auto",
                   .help = "between the maps: a convolution by the ratio of sizes, BN, ReLU; or nothing "
                           "(maps of one shape)",
                   .choices = {"auto", "identity"}}},
      .fidelities = {{"crd",
                      "RepDistiller and mdistiller: weight 100 on the second stage, trained in one go; not "
                      "here: the paper's training of the hint before the rest",
                      {{"fitnet.weight", "100"}, {"fitnet.hint", "2"}, {"fitnet.regressor", "auto"}}}},
      .make = [](const MethodOptions& o) -> std::unique_ptr<Method> { return std::make_unique<FitNet>(o); }};
}

}  // namespace cohort::distill
