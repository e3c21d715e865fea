#include <fmt/core.h>

#include <algorithm>
#include <deque>
#include <optional>

#include "core/dispatch.h"
#include "core/ops/channel_concat.h"
#include "core/ops/channel_summary.h"
#include "core/ops/cohort_loss.h"
#include "core/ops/epoch_weights.h"
#include "core/ops/loss_select.h"
#include "core/ops/pixel_gate.h"
#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "distill/logit_loss.h"
#include "distill/methods/methods.h"
#include "kernels/pointwise.h"
#include "nn/layers.h"

namespace cohort::distill {
namespace {

constexpr std::int64_t kRatio = 16;  // of the channels to what the attention to them has inside

// Scores of the channels before their sigmoid, (N, 1, 1, C): MLP(average over the pixels) + MLP(maximum).
class ChannelAttention {
 public:
  ChannelAttention(ParameterSet& parameters, const std::string& name, std::int64_t channels)
      : down_(parameters, name + ".0", channels, std::max<std::int64_t>(1, channels / kRatio),
              nn::pointwise(nn::ConvInit::kKaimingFanOut)),
        up_(parameters, name + ".2", std::max<std::int64_t>(1, channels / kRatio), channels,
            nn::pointwise(nn::ConvInit::kKaimingFanOut)) {}

  Tensor scores(Context& ctx, const Tensor& x) const {
    Tensor mean = ops::global_avg_pool(ctx, x);
    mean.shape = {x.shape[0], 1, 1, x.shape[3]};
    const int side = static_cast<int>(std::max(x.shape[1], x.shape[2]));
    const Tensor largest = ops::max_pool(ctx, x, {.size = side, .stride = side, .ceil_mode = true});
    const auto mlp = [&](const Tensor& v) { return up_.forward(ctx, ops::relu(ctx, down_.forward(ctx, v))); };
    return ops::add(ctx, mlp(mean), mlp(largest));
  }

 private:
  nn::Conv2d down_, up_;
};

// Two maps of one size, each multiplied by where the other one looks:
//
//   x_0 <- x_0 cm_1,  x_1 <- x_1 cm_0,  cm_k = SA(CA(x_k) x_k)
//   CA(x) = sigmoid(MLP(mean over pixels) + MLP(maximum over pixels)),  SA(u) = sigmoid(conv7x7([mean_c u,
//   max_c u]))
//
// One module for both networks; where their channels differ each has a CA of its own.
class Exchange {
 public:
  Exchange(const char* name, const std::vector<Tensor>& maps) {
    const std::int64_t first = maps[0].shape[3], second = maps[1].shape[3];
    channels_.emplace_back(parameters_, fmt::format("{}.ca.fc", name), first);
    if (second != first) channels_.emplace_back(parameters_, fmt::format("{}.ca1.fc", name), second);
    pixels_.emplace(parameters_, fmt::format("{}.sa.conv1", name), 2, 1,
                    nn::Conv2d::Options{.kernel = 7, .padding = 3});
  }

  void materialize(Context& ctx, std::uint64_t stream) { materialize_part(ctx, parameters_, stream, 0); }

  std::vector<Tensor> operator()(Context& ctx, const std::vector<Tensor>& maps) const {
    const auto scores = [&](const Tensor& x, const ChannelAttention& channels) {
      return pixels_->forward(ctx, ops::channel_summary(ctx, x, channels.scores(ctx, x)));
    };
    const Tensor first = scores(maps[0], channels_.front()), second = scores(maps[1], channels_.back());
    return {ops::pixel_gate(ctx, maps[0], second), ops::pixel_gate(ctx, maps[1], first)};
  }
  ParameterSet& parameters() { return parameters_; }

 private:
  ParameterSet parameters_;
  std::deque<ChannelAttention> channels_;
  std::optional<nn::Conv2d> pixels_;
};

// The teacher of both, on their last maps side by side: z_f = FC(GAP(relu(bn(conv1x1(relu(bn(depthwise 3x3(
// [F_0, F_1]))))))), conv1x1 to half of the channels.
class Fusion {
 public:
  Fusion(const std::vector<Tensor>& maps, std::int64_t classes)
      : wide_(maps[0].shape[3] + maps[1].shape[3]),
        each_(parameters_, "fusion.conv1", "fusion.bn1", wide_, wide_,
              nn::depthwise(nn::ConvInit::kKaimingFanOut, static_cast<int>(wide_), 1)),
        all_(parameters_, "fusion.conv2", "fusion.bn2", wide_, wide_ / 2,
             nn::pointwise(nn::ConvInit::kKaimingFanOut)),
        fc_(parameters_, "fusion.fc", wide_ / 2, classes) {}

  void materialize(Context& ctx) { materialize_part(ctx, parameters_, 0xaf1d'f051'0000'0001ULL, 0); }

  Tensor logits(Context& ctx, const std::vector<Tensor>& maps) const {
    const nn::BatchNorm2d::Options relu{.training = true, .relu = true};
    const Tensor x = each_.forward(ctx, ops::channel_concat(ctx, {maps[0]}, {maps[1]}), relu);
    return fc_.forward(ctx, ops::global_avg_pool(ctx, all_.forward(ctx, x, relu)));
  }
  ParameterSet& parameters() { return parameters_; }

 private:
  ParameterSet parameters_;
  std::int64_t wide_;
  nn::ConvNorm each_, all_;
  nn::Linear fc_;
};

// (a + b) / 2, a constant.
Tensor mean_of(Context& ctx, const Tensor& a, const Tensor& b) {
  const Tensor mean = ctx.empty(a.shape, a.dtype);
  const auto add = [&](const Tensor& x, GradMode mode) {
    on_device(ctx, [&](auto stream) {
      kernels::scale(
          stream,
          {.dtype = x.dtype, .count = x.count(), .x = x.data, .y = mean.data, .factor = 0.5, .mode = mode});
    });
  };
  add(a, GradMode::kOverwrite);
  add(b, GradMode::kAccumulate);
  return mean;
}

// Attentive feature interaction: two networks that exchange attention after the stem and after the last
// stage, and learn from a fusion of their last maps (before the second exchange).
//
//   L = CE_0 + CE_1 + CE_f + lambda r(e) T^2 (KL_T(z_f -> z_0) + KL_T(z_f -> z_1) + KL_T(z_e -> z_f))
//
// z_e = (z_0 + z_1) / 2. What teaches is a constant; what is exchanged is not: each network also learns to
// look where it helps the other one. The fusion's part is booked under the first network.
class Afid final : public Method {
 public:
  explicit Afid(const MethodOptions& o)
      : temperature_(o.number("afid.T")),
        lambda_(o.number("afid.lambda")),
        fusion_decay_(o.number("afid.wd")),
        ramp_(static_cast<int>(o.integer("afid.ramp"))),
        alone_(o.choice("afid.eval") == 1) {}

  std::string formula(int) const override {
    const std::string ramp =
        ramp_ > 0 ? fmt::format("exp(-5 (1 - min(epoch, {0})/{0})^2) ", ramp_) : std::string();
    return fmt::format(
        "net 0, 1: CE(z_i, y) + {0:g} {1}T^2 KL(softmax(z_f/T) || softmax(z_i/T)); fusion of their last "
        "maps: "
        "CE(z_f, y) + {0:g} {1}T^2 KL(softmax((z_0 + z_1)/2T) || softmax(z_f/T)), T={2:g}, batchmean, "
        "targets "
        "detached; after stem and last stage x_i <- x_i sigmoid(attention of the other's), not detached; "
        "evaluated {3}",
        lambda_, ramp, temperature_, alone_ ? "without the exchange" : "with the exchange");
  }

  void check_members(int members) const override {
    if (members == 2) return;
    throw Error(ErrorKind::kUsage, fmt::format("afid trains two networks, not {}", members),
                "give --net twice");
  }

  std::vector<Meeting> meetings() const override { return {Meeting::kAfterStem, Meeting::kAfterLastStage}; }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    weights_ = LossWeights::make(ctx, 2);  // nobody teaches directly
    ce_ = constant(ctx, {4}, {1, 1, 1, 0});
    // Rows learn: both networks from the fusion, the fusion from their mean.
    std::vector<double> kl(16, 0.0);
    kl[0 * 4 + 2] = kl[1 * 4 + 2] = kl[2 * 4 + 3] = lambda_;
    kl_ = constant(ctx, {4, 4}, kl);
    one_ = constant(ctx, {}, {1});
    const std::vector<double> table = ops::ramp_up(ramp_);
    table_ = constant(ctx, {static_cast<std::int64_t>(table.size())}, table);
    classes_ = probe[0].logits.shape[1];
  }

  void setup_meeting(Context& ctx, Meeting meeting, const std::vector<Tensor>& maps) override {
    const bool stem = meeting == Meeting::kAfterStem;
    const Shape &a = maps[0].shape, &b = maps[1].shape;
    if (a[1] != b[1] || a[2] != b[2]) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("afid exchanges attention pixel by pixel, and the maps after the {} are {}x{} "
                              "and {}x{}",
                              stem ? "stem" : "last stage", a[1], a[2], b[1], b[2]),
                  "choose two networks whose stems and last stages have maps of the same size: cohort "
                  "inspect model NAME");
    }
    std::optional<Exchange>& exchange = stem ? stem_ : end_;
    exchange.emplace(stem ? "stem" : "end", maps);
    exchange->materialize(ctx, stem ? 0xaf1d'57e3'0000'0001ULL : 0xaf1d'0e4d'0000'0001ULL);
    if (stem) return;
    fusion_.emplace(maps, classes_);
    fusion_->materialize(ctx);
  }

  std::vector<Tensor> meet(Context& ctx, Meeting meeting, const std::vector<Tensor>& maps,
                           bool training) override {
    if (alone_ && !training) return maps;
    if (meeting == Meeting::kAfterStem) return (*stem_)(ctx, maps);
    if (training) fused_ = fusion_->logits(ctx, maps);
    return (*end_)(ctx, maps);
  }

  std::vector<ParameterSet*> extra_parameters(int member) override {
    std::vector<ParameterSet*> sets;
    if (member != 0) return sets;
    if (fusion_) sets.push_back(&fusion_->parameters());
    if (end_) sets.push_back(&end_->parameters());
    if (stem_) sets.push_back(&stem_->parameters());
    return sets;
  }

  double weight_decay(const ParameterSet& extra, double of_network) override {
    return fusion_ && &extra == &fusion_->parameters() ? fusion_decay_ : of_network;
  }

  void losses(Context& ctx, StepView& view) override {
    const Tensor& fused = view.fused_logits.empty() ? fused_ : view.fused_logits;
    if (fused.empty()) {
      throw Error(ErrorKind::kUsage, "afid needs the fusion's logits or the maps that it looks at",
                  "give fused (rows, classes), or features_K for both networks");
    }
    const Tensor &first = view.outputs[0].logits, &second = view.outputs[1].logits;
    const Tensor logits[] = {first, second, fused, mean_of(ctx, first, second)};
    const ops::CohortLossValues values =
        ops::cohort_loss(ctx, {.logits = logits,
                               .labels = view.labels,
                               .ce_weight = ce_,
                               .kl_weight = ops::epoch_weights(ctx, kl_, table_, view.epoch),
                               .valid_rows = view.valid_rows,
                               .temperature = temperature_});
    const auto of_networks = [](const Tensor& t) { return Tensor{t.data, {2}, t.dtype, nullptr}; };
    Report& report = view.report;
    report.loss = of_networks(values.loss);
    report.ce = of_networks(values.ce);
    report.kl = of_networks(values.kl);
    report.correct_top1 = of_networks(values.correct_top1);
    report.correct_top5 = of_networks(values.correct_top5);
    report.kl_weight = weights_.kl;
    add_to_loss(ctx, view, 0, ops::entry(values.loss, 2));
    report.feature_terms.push_back({0, one_, ops::entry(values.loss, 2)});
  }

 private:
  double temperature_, lambda_, fusion_decay_;
  int ramp_;
  bool alone_;
  std::int64_t classes_ = 0;
  LossWeights weights_;
  Tensor ce_, kl_, one_, table_;  // of both networks, the fusion, their mean
  std::optional<Exchange> stem_, end_;
  std::optional<Fusion> fusion_;
  Tensor fused_;  // of the step
};

}  // namespace

MethodInfo afid_info() {
  return {
      .name = "afid",
      .summary = "two networks multiply each other's maps by their attention, and learn from their fusion",
      .equation =
          "L = sum_k CE_k + CE_f + lambda r(e) T^2 (sum_k KL_T(z_f -> z_k) + KL_T(z_e -> z_f)), z_e = mean "
          "z_k, z_f = Fusion(F_0, F_1)",
      .paper = "AFID, attentive feature interaction: its public code (deeplearning-distillation/AFID)",
      .options = {{.key = "afid.T", .default_value = "3", .help = "temperature", .min = 1e-3},
                  {.key = "afid.lambda", .default_value = "1", .help = "weight of the KL terms", .min = 0},
                  {.key = "afid.ramp",
                   .type = OptionType::kInteger,
                   .default_value = "80",
                   .help = "epochs over which the KL terms grow to their weight; 0: none",
                   .min = 0,
                   .max = 100000},
                  {.key = "afid.wd",
                   .default_value = "1e-5",
                   .help = "weight decay of the fusion; the attention has its networks'",
                   .min = 0},
                  {.key = "afid.eval",
                   .type = OptionType::kChoice,
                   .default_value = "exchange",
                   .help = "a run evaluates its networks with the exchange (code), or each alone, as its "
                           "weight file is",
                   .choices = {"exchange", "alone"}}},
      .fidelities = {{"code",
                      "the authors' code: T = 3, ramp over 80 epochs, evaluated with the exchange; not here: "
                      "1e-7 on every target, the first convolution in common (Wide ResNet)",
                      {{"afid.T", "3"},
                       {"afid.lambda", "1"},
                       {"afid.ramp", "80"},
                       {"afid.wd", "1e-5"},
                       {"afid.eval", "exchange"}}}},
      .make = [](const MethodOptions& o) -> std::unique_ptr<Method> { return std::make_unique<Afid>(o); }};
}

}  // namespace cohort::distill
