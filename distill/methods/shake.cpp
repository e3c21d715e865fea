#include <fmt/core.h>

#include <algorithm>
#include <deque>

#include "core/ops/cohort_loss.h"
#include "core/ops/feature_l2.h"
#include "core/ops/linear.h"
#include "core/ops/logit_standardise.h"
#include "core/ops/loss_select.h"
#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "distill/logit_loss.h"
#include "distill/methods/methods.h"
#include "nn/layers.h"

namespace cohort::distill {
namespace {

enum class Shadow { kHead, kNetwork };

constexpr double kFactor = 3.1415;  // the published code's, not pi's

// The shadow head on the teacher's last three maps f1, f2, f3, all constants:
//
//   x = c1(f1) + c2(f2);   x = c3(x) + c4(f3);   z_h = FC_t(GAP(c5(x)))
//
// c1, c3: 3x3 with the stride between the maps; c2, c4: 1x1; c5: 3x3; each with batch normalisation and ReLU.
// FC_t is the teacher's classifier, a constant. Of fewer maps it is built from its end.
class ShadowHead {
 public:
  explicit ShadowHead(const models::Outputs& teacher) {
    const auto maps = last_maps(teacher);
    if (maps.empty() || teacher.classifier.weight.empty()) {
      throw Error(ErrorKind::kUsage, "shake's shadow head stands on the teacher's maps and classifier",
                  "give features_0, weight_0 and bias_0, or distill.shake.shadow=net");
    }
    for (std::size_t i = 1; i < maps.size(); ++i) {
      const Shape &from = maps[i - 1].shape, &to = maps[i].shape;
      const auto stride = static_cast<int>(from[1] / to[1]);
      if (from[1] != stride * to[1] || from[2] != stride * to[2]) {
        throw Error(ErrorKind::kUsage,
                    fmt::format("shake: the teacher's maps of {}x{} and {}x{} are no whole ratio apart",
                                from[1], from[2], to[1], to[2]),
                    "choose a teacher whose stages halve their maps");
      }
      const std::size_t number = 2 * (i + kMaps - maps.size());
      down_.emplace_back(parameters_, name(number - 1, "conv"), name(number - 1, "bn"), from[3], to[3],
                         nn::Conv2d::Options{.stride = stride});
      same_.emplace_back(parameters_, name(number, "conv"), name(number, "bn"), to[3], to[3],
                         nn::Conv2d::Options{.kernel = 1, .padding = 0});
    }
    const std::int64_t channels = maps.back().shape[3];
    last_.emplace_back(parameters_, name(5, "conv"), name(5, "bn"), channels, channels,
                       nn::Conv2d::Options{});
    check(teacher.classifier.weight.shape[1] == channels, "shake: the last map is what the classifier reads");
  }

  void materialize(Context& ctx, int member) {
    materialize_part(ctx, parameters_, 0x54a'0e0'0000'0001ULL, member);
  }

  Tensor forward(Context& ctx, const models::Outputs& teacher) const {
    const auto maps = last_maps(teacher);
    const nn::BatchNorm2d::Options relu{.training = true, .relu = true};
    Tensor x = maps[0].detached();
    for (std::size_t i = 1; i < maps.size(); ++i) {
      const Tensor down = down_[i - 1].forward(ctx, x, relu);
      x = ops::add(ctx, down, same_[i - 1].forward(ctx, maps[i].detached(), relu));
    }
    const Tensor pooled = ops::global_avg_pool(ctx, last_[0].forward(ctx, x, relu));
    const models::Classifier& fc = teacher.classifier;
    return ops::linear(ctx, pooled, fc.weight.detached(), fc.bias.detached());
  }

  ParameterSet& parameters() { return parameters_; }

 private:
  static constexpr std::size_t kMaps = 3;

  static std::span<const Tensor> last_maps(const models::Outputs& outputs) {
    const std::size_t count = std::min(kMaps, outputs.stages.size());
    return std::span(outputs.stages).last(count);
  }
  static std::string name(std::size_t number, const char* part) {
    return fmt::format("shadow.c{}.{}", number, part);
  }

  ParameterSet parameters_;
  std::vector<nn::ConvNorm> down_, same_, last_;
};

// Li & Jin, "Shadow knowledge distillation: bridging offline and online knowledge transfer", NeurIPS 2022.
// Member 0 is the teacher: frozen, evaluation mode. A shadow h of it is trained with the student: a head on
// the teacher's maps, one for each student, or the last network. n = standardised logits.
//
//   L_s = g CE(n_s) + a T^2 KL(n_t -> n_s) + b T^2 KL(n_h -> n_s)
//   L_h = b (CE(n_h) + T^2 KL(n_s -> n_h) + MSE(n_h, n_t)), mean over samples and classes
//
// A head's loss is part of its student's.
class Shake final : public Method {
 public:
  explicit Shake(const MethodOptions& options)
      : g_(options.number("shake.g")),
        a_(options.number("shake.a")),
        b_(options.number("shake.b")),
        temperature_(options.number("shake.T")),
        standardise_(options.flag("shake.ln")),
        shadow_(static_cast<Shadow>(options.choice("shake.shadow"))) {}

  std::string formula(int members) const override {
    const bool head = shadow_ == Shadow::kHead;
    return fmt::format(
        "net 0: frozen teacher; {}: {:g} CE(n_i, y) + {:g} T^2 KL(n_0 -> n_i) + {:g} T^2 KL(n_h -> n_i){} "
        "{:g} (CE(n_h, y) + T^2 KL(n_i -> n_h) + MSE(n_h, n_0)), n = {}, T={:g}, h: {}, batchmean, targets "
        "detached, teacher in evaluation mode",
        head ? fmt::format("net 1..{}", members - 1) : "net 1", g_, a_, b_, head ? " +" : "; net 2:", b_,
        standardise_ ? fmt::format("{:g} (z - mean) / deviation per image", kFactor) : "z", temperature_,
        head ? "a head on the teacher's maps with the teacher's classifier" : "net 2");
  }

  void check_members(int members) const override {
    Method::check_members(members);
    check_teacher_and_student("shake", members);
    if (shadow_ == Shadow::kNetwork && members != 3) {
      throw Error(ErrorKind::kUsage, fmt::format("shake.shadow=net trains three networks, not {}", members),
                  "a teacher, a student and the teacher's shadow, in this order");
    }
  }

  bool frozen(int member) const override { return member == 0; }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    const std::size_t m = probe.size();
    // What the students learn comes with feature_losses(), on their branches.
    weights_ = LossWeights::make(ctx, static_cast<int>(m));
    std::vector<double> ce(m, 0.0), kl(m * m, 0.0);
    ce[0] = 1;
    for (std::size_t student = 1; student < m; ++student) kl[student * m] = a_;
    upload_values(ctx, weights_.ce, ce);
    taught_by_ = constant(ctx, {static_cast<std::int64_t>(m), static_cast<std::int64_t>(m)}, kl);
    student_ce_ = constant(ctx, {3}, {g_, 0, 0});
    student_kl_ = constant(ctx, {3, 3}, {0, a_, b_, 0, 0, 0, 0, 0, 0});
    shadow_ce_ = constant(ctx, {2}, {b_, 0});
    shadow_kl_ = constant(ctx, {2, 2}, {0, b_, 0, 0});
    one_ = constant(ctx, {}, {1});
    mse_ = constant(ctx, {}, {b_});
    if (shadow_ == Shadow::kNetwork) return;
    for (std::size_t student = 1; student < m; ++student)
      heads_.emplace_back(probe[0]).materialize(ctx, static_cast<int>(student));
  }

  std::vector<ParameterSet*> extra_parameters(int member) override {
    if (member == 0 || heads_.empty()) return {};
    return {&heads_[static_cast<std::size_t>(member) - 1].parameters()};
  }

  void losses(Context& ctx, StepView& view) override {
    logit_losses(ctx, view, weights_, {});
    view.report.kl_weight = taught_by_;
  }

  void feature_losses(Context& ctx, StepView& view, int member) override {
    const auto i = static_cast<std::size_t>(member);
    const auto logits = [&](std::size_t k) -> const Tensor& { return view.outputs[k].logits; };
    const Tensor teacher = normalised(ctx, logits(0).detached());
    const Tensor own = normalised(ctx, logits(i));
    if (shadow_ == Shadow::kNetwork) {
      const Tensor other = normalised(ctx, logits(member == 1 ? 2 : 1).detached());
      if (member == 1) return teach_student(ctx, view, member, own, teacher, other);
      const ops::CohortLossValues values = teach_shadow(ctx, view, member, own, teacher, other);
      copy(ctx, ops::entry(values.ce, 0), ops::entry(view.report.ce, member));
      copy(ctx, ops::entry(values.kl, 0), ops::entry(view.report.kl, member));
      return;
    }
    const Tensor shadow = normalised(ctx, heads_[i - 1].forward(ctx, view.outputs[0]));
    teach_student(ctx, view, member, own, teacher, shadow);
    const ops::CohortLossValues values = teach_shadow(ctx, view, member, shadow, teacher, own);
    view.report.feature_terms.push_back({member, one_, ops::entry(values.loss, 0)});
  }

 private:
  Tensor normalised(Context& ctx, const Tensor& logits) const {
    return standardise_ ? ops::logit_standardise(ctx, logits, {.factor = kFactor}) : logits;
  }

  void teach_student(Context& ctx, StepView& view, int member, const Tensor& student, const Tensor& teacher,
                     const Tensor& shadow) const {
    const Tensor logits[] = {student, teacher.detached(), shadow.detached()};
    const ops::CohortLossValues values = ops::cohort_loss(ctx, {.logits = logits,
                                                                .labels = view.labels,
                                                                .ce_weight = student_ce_,
                                                                .kl_weight = student_kl_,
                                                                .valid_rows = view.valid_rows,
                                                                .temperature = temperature_});
    copy(ctx, ops::entry(values.ce, 0), ops::entry(view.report.ce, member));
    copy(ctx, ops::entry(values.kl, 0), ops::entry(view.report.kl, member));
    add_to_loss(ctx, view, member, ops::entry(values.loss, 0));
  }

  // `member`: whose loss it is part of.
  ops::CohortLossValues teach_shadow(Context& ctx, StepView& view, int member, const Tensor& shadow,
                                     const Tensor& teacher, const Tensor& student) const {
    const Tensor logits[] = {shadow, student.detached()};
    const ops::CohortLossValues values = ops::cohort_loss(ctx, {.logits = logits,
                                                                .labels = view.labels,
                                                                .ce_weight = shadow_ce_,
                                                                .kl_weight = shadow_kl_,
                                                                .valid_rows = view.valid_rows,
                                                                .temperature = temperature_});
    add_to_loss(ctx, view, member, ops::entry(values.loss, 0));
    const Tensor value =
        ops::feature_l2(ctx, shadow, teacher.detached(), mse_,
                        {.valid_rows = view.valid_rows, .loss = ops::entry(view.report.loss, member)});
    view.report.feature_terms.push_back({member, mse_, value});
    return values;
  }

  double g_, a_, b_, temperature_;
  bool standardise_;
  Shadow shadow_;
  LossWeights weights_;
  Tensor taught_by_, student_ce_, student_kl_, shadow_ce_, shadow_kl_, one_, mse_;
  std::deque<ShadowHead> heads_;  // of members 1 ...
};

std::vector<OptionSpec> options() {
  return {
      {.key = "shake.g", .default_value = "1", .help = "weight of the student's cross-entropy", .min = 0},
      {.key = "shake.a", .default_value = "0", .help = "weight of the KL from the teacher", .min = 0},
      {.key = "shake.b",
       .default_value = "1",
       .help = "weight of the terms between student and shadow, and of the shadow's own",
       .min = 0},
      {.key = "shake.T", .default_value = "4", .help = "temperature", .min = 1e-3},
      {.key = "shake.ln",
       .type = OptionType::kBool,
       .default_value = "true",
       .help = "standardise the logits of every image, as the published code does"},
      {.key = "shake.shadow",
       .type = OptionType::kChoice,
       .default_value = "head",
       .help = "the teacher's shadow: a head on the teacher's maps for every student, or the last of three "
               "networks",
       .choices = {"head", "net"}}};
}

}  // namespace

MethodInfo shake_info() {
  return {
      .name = "shake",
      .summary = "a shadow of the frozen teacher learns with the student, and they teach each other",
      .equation =
          "L_s = g CE + a T^2 KL(t -> s) + b T^2 KL(h -> s); L_h = b (CE + T^2 KL(s -> h) + "
          "MSE(h, t)), h a head on the teacher's maps, logits standardised",
      .paper =
          "Li & Jin, Shadow knowledge distillation: bridging offline and online knowledge transfer, "
          "NeurIPS 2022",
      .options = options(),
      .fidelities =
          {{"paper", "plain logits", {{"shake.ln", "false"}}},
           {"code",
            "the authors' code: logits standardised times 3.1415, g = 1, a = 0, b = 1, T = 4",
            {{"shake.g", "1"}, {"shake.a", "0"}, {"shake.b", "1"}, {"shake.T", "4"}, {"shake.ln", "true"}}}},
      .make = [](const MethodOptions& o) -> std::unique_ptr<Method> { return std::make_unique<Shake>(o); }};
}

}  // namespace cohort::distill
