#include <fmt/core.h>

#include <cmath>
#include <deque>

#include "core/ops/channel_concat.h"
#include "core/ops/epoch_weights.h"
#include "core/ops/feature_l2.h"
#include "core/ops/logit_standardise.h"
#include "core/ops/loss_select.h"
#include "core/ops/pool.h"
#include "distill/logit_loss.h"
#include "distill/methods/methods.h"
#include "nn/layers.h"

namespace cohort::distill {
namespace {

constexpr double kLogitScale = 2.5;  // of standardised logits, in the authors' code

enum class Schedule { kCifar, kImagenet, kOff };

// The weight of the feature term by the epoch, as the authors' code has it.
std::vector<double> factors(Schedule schedule) {
  struct Until {
    int epoch;
    double factor;
  };
  std::vector<Until> steps;
  if (schedule == Schedule::kCifar) steps = {{10, 0.1}, {20, 0.5}, {180, 1}, {210, 0.5}, {211, 0.1}};
  if (schedule == Schedule::kImagenet) steps = {{5, 0.1}, {15, 0.5}, {60, 0.9}, {80, 0.5}, {81, 0.1}};
  if (schedule == Schedule::kOff) steps = {{1, 1}};
  std::vector<double> table;
  for (const Until& step : steps) table.resize(static_cast<std::size_t>(step.epoch), step.factor);
  return table;
}

// N copies of the channels of x.
Tensor tiled(Context& ctx, const Tensor& x, int copies) {
  if (copies == 1) return x;
  const Tensor half = tiled(ctx, x, copies / 2);
  const Tensor even = ops::channel_concat(ctx, {half}, {half});
  return copies % 2 == 0 ? even : ops::channel_concat(ctx, {even}, {x});
}

// What stands behind a student's last stage: E from its channels to N times its teacher's, R back.
class Bridge {
 public:
  Bridge(std::int64_t student, std::int64_t wide)
      : expand_(parameters_, "norm.expand.conv", "norm.expand.bn", student, wide,
                nn::pointwise(nn::ConvInit::kKaimingFanOut)),
        reduce_(parameters_, "norm.reduce.conv", "norm.reduce.bn", wide, student,
                nn::pointwise(nn::ConvInit::kKaimingFanOut)) {}

  void materialize(Context& ctx, int member) {
    materialize_part(ctx, parameters_, 0x0e77'b41d'0000'0001ULL, member);
  }

  Tensor expand(Context& ctx, const Tensor& map, bool training) const {
    return expand_.forward(ctx, map, {.training = training});
  }
  // x + R(E(x)).
  Tensor reduce(Context& ctx, const Tensor& wide, const Tensor& map, bool training) const {
    return reduce_.forward(ctx, wide, {.training = training}, map);
  }
  ParameterSet& parameters() { return parameters_; }

 private:
  ParameterSet parameters_;
  nn::ConvNorm expand_, reduce_;
};

// Liu et al., "NORM: knowledge distillation via N-to-one representation matching", ICLR 2023. Member 0 is the
// teacher: frozen, evaluation mode.
//
//   x' = x + R(E(x)),  E = BN(conv1x1: C_s -> N C_t),  R = BN(conv1x1: N C_t -> C_s)
//   L_s = g CE_s + a T^2 KL_T(z_t -> z_s) + b1(e) b N MSE(E(x), F_t repeated N times)
//
// x: the student's last map, x' what its classifier pools. Without an activation between them E, R and the
// pooling are one affine function, so that a weight file holds an ordinary student.
class Norm final : public Method {
 public:
  explicit Norm(const MethodOptions& o)
      : copies_(static_cast<int>(o.integer("norm.N"))),
        g_(o.number("norm.g")),
        a_(o.number("norm.a")),
        b_(o.number("norm.b")),
        temperature_(o.number("norm.T")),
        standardised_(o.flag("norm.ln")),
        schedule_(static_cast<Schedule>(o.choice("norm.b1"))) {}

  std::string formula(int members) const override {
    const char* const z = standardised_ ? "ln z" : "z";
    std::string text = fmt::format("net 0: frozen teacher; net 1..{}: {:g} CE({}_i, y)", members - 1, g_, z);
    if (a_ > 0)
      text +=
          fmt::format(" + {0:g} T^2 KL(softmax({1}_0/T) || softmax({1}_i/T)), T={2:g},", a_, z, temperature_);
    text += fmt::format(" + {}{:g} {} MSE(E(x_i), {} copies of x_0)",
                        schedule_ == Schedule::kOff ? "" : "b1(epoch) ", b_, copies_, copies_);
    if (standardised_) text += fmt::format(", ln z = {:g} (z - mean z) / sqrt(var z + 1e-7)", kLogitScale);
    return text + "; z_i = FC(GAP(x_i + R(E(x_i)))), x the last maps, batchmean, teacher in evaluation mode";
  }

  void check_members(int members) const override {
    Method::check_members(members);
    check_teacher_and_student("norm", members);
  }

  bool frozen(int member) const override { return member == 0; }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    const std::size_t m = probe.size();
    weights_ = LossWeights::of_students(ctx, static_cast<int>(m), g_, a_);
    const std::vector<double> table = factors(schedule_);
    base_ = constant(ctx, {1}, {b_ * copies_});
    table_ = constant(ctx, {static_cast<std::int64_t>(table.size())}, table);
    for (std::size_t k = 1; k < m; ++k) {
      if (probe[k].stages.empty() || probe[0].stages.empty()) {
        throw Error(ErrorKind::kUsage, "norm compares last maps, and there are none",
                    "give features_K for every network");
      }
      const Shape &student = probe[k].stages.back().shape, &teacher = probe[0].stages.back().shape;
      pooling(student, teacher);  // refused here, not in the middle of a step
      bridges_.emplace_back(student[3], copies_ * teacher[3]);
      bridges_.back().materialize(ctx, static_cast<int>(k));
    }
    expanded_.resize(m);
  }

  std::vector<ParameterSet*> extra_parameters(int member) override {
    if (member == 0 || bridges_.empty()) return {};
    return {&bridge(member).parameters()};
  }

  Tensor transform(Context& ctx, int member, const Tensor& map, bool training) override {
    if (member == 0) return map;
    Tensor& wide = expanded_[static_cast<std::size_t>(member)];
    wide = bridge(member).expand(ctx, map, training);
    return bridge(member).reduce(ctx, wide, map, training);
  }

  std::map<std::string, std::vector<double>> folded(Context& ctx, int member,
                                                    const models::Network& network) override;

  void losses(Context& ctx, StepView& view) override {
    StepView seen = view;
    if (standardised_) {
      for (std::size_t k = 0; k < seen.outputs.size(); ++k) {
        Tensor& z = seen.outputs[k].logits;
        z = ops::logit_standardise(ctx, k == 0 ? z.detached() : z, {.factor = kLogitScale});
        if (k == 0) z = z.detached();
      }
    }
    logit_losses(ctx, seen, weights_, {.temperature = temperature_});
    view.report = seen.report;
    weight_ = ops::entry(ops::epoch_weights(ctx, base_, table_, view.epoch), 0);
  }

  void feature_losses(Context& ctx, StepView& view, int member) override {
    if (member == 0) return;
    Tensor own = expanded_[static_cast<std::size_t>(member)];
    ctx.set_recording(false);
    Tensor teacher = view.outputs[0].stages.back().detached();
    const Pooling pool = pooling(own.shape, teacher.shape);
    if (pool.teacher > 1)
      teacher = ops::max_pool(ctx, teacher, {.size = pool.teacher, .stride = pool.teacher});
    teacher = tiled(ctx, teacher, copies_);
    ctx.set_recording(true);
    if (pool.student > 1) own = ops::max_pool(ctx, own, {.size = pool.student, .stride = pool.student});
    const Tensor value =
        ops::feature_l2(ctx, own, teacher, weight_,
                        {.valid_rows = view.valid_rows, .loss = ops::entry(view.report.loss, member)});
    view.report.feature_terms.push_back({member, weight_, value});
  }

 private:
  // How many pixels of a side become one.
  struct Pooling {
    int student = 1, teacher = 1;
  };
  static Pooling pooling(const Shape& student, const Shape& teacher) {
    const auto ratio = [](const Shape& large, const Shape& small) {
      const std::int64_t sides = large[1] / small[1];
      return large[1] == sides * small[1] && large[2] == sides * small[2] ? static_cast<int>(sides) : 0;
    };
    const int of_teacher = ratio(teacher, student), of_student = ratio(student, teacher);
    if (of_teacher > 0) return {1, of_teacher};
    if (of_student > 0) return {of_student, 1};
    throw Error(ErrorKind::kUsage,
                fmt::format("norm: last maps of {}x{} and {}x{} pixels", student[1], student[2], teacher[1],
                            teacher[2]),
                "the larger map is a whole multiple of the smaller one");
  }

  Bridge& bridge(int member) { return bridges_[static_cast<std::size_t>(member - 1)]; }

  int copies_;
  double g_, a_, b_, temperature_;
  bool standardised_;
  Schedule schedule_;
  LossWeights weights_;
  Tensor base_, table_;  // b N; its factor by the epoch
  std::deque<Bridge> bridges_;
  // Of the step.
  Tensor weight_;
  std::vector<Tensor> expanded_;  // per member E(x)
};

// A parameter or buffer of a set, in double.
std::vector<double> values_of(Context& ctx, ParameterSet& set, const std::string& name) {
  for (const Parameter& p : set.parameters())
    if (p.name == name) return download_values(ctx, p.value);
  for (const Buffer& b : set.buffers())
    if (b.name == name) return download_values(ctx, b.value);
  internal_error("norm: no tensor " + name);
}

// y = matrix x + shift: a 1x1 convolution and its batch normalisation in evaluation mode.
struct Affine {
  std::vector<double> matrix, shift;  // (rows, columns), (rows)

  static Affine of(Context& ctx, ParameterSet& set, const std::string& name) {
    Affine f{values_of(ctx, set, name + ".conv.weight"), values_of(ctx, set, name + ".bn.bias")};
    const std::vector<double> gamma = values_of(ctx, set, name + ".bn.weight"),
                              mean = values_of(ctx, set, name + ".bn.running_mean"),
                              variance = values_of(ctx, set, name + ".bn.running_var");
    const std::size_t columns = f.matrix.size() / f.shift.size();
    for (std::size_t i = 0; i < f.shift.size(); ++i) {
      const double scale = gamma[i] / std::sqrt(variance[i] + 1e-5);
      f.shift[i] -= scale * mean[i];
      for (std::size_t j = 0; j < columns; ++j) f.matrix[i * columns + j] *= scale;
    }
    return f;
  }
};

// to (rows, columns) += left (rows, inner) right (inner, columns).
void add_product(std::vector<double>& to, const std::vector<double>& left, const std::vector<double>& right,
                 std::size_t inner) {
  const std::size_t rows = left.size() / inner, columns = right.size() / inner;
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t k = 0; k < inner; ++k) {
      const double factor = left[i * inner + k];
      for (std::size_t j = 0; j < columns; ++j) to[i * columns + j] += factor * right[k * columns + j];
    }
  }
}

// FC(p + R(E(p))) = (W + W M_R M_E) p + W (M_R s_E + s_R) + bias, p the pooled map: pooling and affine
// functions change places.
std::map<std::string, std::vector<double>> Norm::folded(Context& ctx, int member,
                                                        const models::Network& network) {
  if (member == 0) return {};
  ParameterSet& set = bridge(member).parameters();
  const Affine expand = Affine::of(ctx, set, "norm.expand"), reduce = Affine::of(ctx, set, "norm.reduce");
  const Parameter &weight = network.classifier().weight(), &bias = network.classifier().bias();
  const std::vector<double> w = download_values(ctx, weight.value);
  const std::size_t wide = expand.shift.size(), channels = reduce.shift.size();
  std::vector<double> w_reduced(w.size() / channels * wide, 0.0), folded_weight = w;
  add_product(w_reduced, w, reduce.matrix, channels);
  add_product(folded_weight, w_reduced, expand.matrix, wide);
  std::vector<double> folded_bias = download_values(ctx, bias.value);
  add_product(folded_bias, w_reduced, expand.shift, wide);
  add_product(folded_bias, w, reduce.shift, channels);
  return {{weight.name, folded_weight}, {bias.name, folded_bias}};
}

}  // namespace

MethodInfo norm_info() {
  return {
      .name = "norm",
      .summary = "a frozen teacher's last map, repeated N times, is matched inside the student's end",
      .equation = "L_s = g CE_s + a T^2 KL_T(z_t -> z_s) + b1(e) b N MSE(E(x_s), N copies of x_t)",
      .paper = "Liu et al., NORM: knowledge distillation via N-to-one representation matching, ICLR 2023",
      .options =
          {{.key = "norm.N",
            .type = OptionType::kInteger,
            .default_value = "8",
            .help = "copies of the teacher's map",
            .min = 1,
            .max = 64},
           {.key = "norm.g",
            .default_value = "1",
            .help = "weight of the cross-entropy; the authors search 1/16 to 1/2 on CIFAR-100",
            .min = 0},
           {.key = "norm.a", .default_value = "0", .help = "weight of the KL divergence", .min = 0},
           {.key = "norm.b", .default_value = "1", .help = "weight of the feature term", .min = 0},
           {.key = "norm.T", .default_value = "4", .help = "temperature of the KL", .min = 1e-3},
           {.key = "norm.ln",
            .type = OptionType::kBool,
            .default_value = "true",
            .help = "standardise logits, times 2.5, before all losses (code; the paper does not)"},
           {.key = "norm.b1",
            .type = OptionType::kChoice,
            .default_value = "cifar",
            .help = "the feature term's factor by the epoch: of the CIFAR code, of the ImageNet code, or 1",
            .choices = {"cifar", "imagenet", "off"}}},
      .fidelities = {{"paper",
                      "plain logits and a constant feature term, N = 8",
                      {{"norm.N", "8"}, {"norm.ln", "false"}, {"norm.b1", "off"}}},
                     {"code",
                      "the authors' CIFAR-100 code: logits standardised times 2.5, scheduled feature term",
                      {{"norm.N", "8"},
                       {"norm.a", "0"},
                       {"norm.b", "1"},
                       {"norm.T", "4"},
                       {"norm.ln", "true"},
                       {"norm.b1", "cifar"}}},
                     {"imagenet-code",
                      "the same with ImageNet's schedule and g = 1",
                      {{"norm.N", "8"},
                       {"norm.g", "1"},
                       {"norm.a", "0"},
                       {"norm.b", "1"},
                       {"norm.ln", "true"},
                       {"norm.b1", "imagenet"}}}},
      .make = [](const MethodOptions& o) -> std::unique_ptr<Method> { return std::make_unique<Norm>(o); }};
}

}  // namespace cohort::distill
