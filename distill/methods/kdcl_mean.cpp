#include <fmt/core.h>

#include "core/ops/weighted_target.h"
#include "distill/logit_loss.h"
#include "distill/methods/methods.h"

namespace cohort::distill {
namespace {

// The mean of all logits as the shared target: what a widely used third-party "KDCL" does. None of the four
// variants of Guo et al., CVPR 2020.
//
//   z_t = mean_i z_i,  L_k = a CE_k + lambda T^2 KL(softmax(z_t/T) || softmax(z_k/T))
class KdclMean final : public Method {
 public:
  explicit KdclMean(const MethodOptions& options)
      : temperature_(options.number("kdcl.T")),
        lambda_(options.number("kdcl.lambda")),
        a_(options.number("mean.a")) {}

  std::string formula(int) const override {
    return fmt::format(
        "net i: {:g} CE(z_i, y) + {:g} T^2 KL(softmax(z_t/T) || softmax(z_i/T)), z_t = mean_k z_k, T={:g}, "
        "batchmean, target detached, simultaneous update",
        a_, lambda_, temperature_);
  }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    const std::size_t m = probe.size();
    weights_ = LossWeights::make(ctx, static_cast<int>(m));
    upload_values(ctx, weights_.ce, std::vector<double>(m, a_));
    upload_values(ctx, weights_.target, std::vector<double>(m, lambda_));
    mean_ =
        constant(ctx, {static_cast<std::int64_t>(m)}, std::vector<double>(m, 1.0 / static_cast<double>(m)));
  }

  void losses(Context& ctx, StepView& view) override {
    const Tensor target = ops::weighted_target(ctx, {.logits = logits_of(view),
                                                     .weights = mean_,
                                                     .temperature = temperature_,
                                                     .valid_rows = view.valid_rows});
    logit_losses(
        ctx, view, weights_,
        {.temperature = temperature_, .target_rule = kernels::TargetRule::kGiven, .given_target = target});
  }

 private:
  double temperature_, lambda_, a_;
  LossWeights weights_;
  Tensor mean_;  // (M) A
};

}  // namespace

MethodInfo kdcl_mean_info() {
  return {
      .name = "kdcl-mean",
      .summary = "one shared soft target: the mean of all networks' logits",
      .equation = "L_k = a CE_k + lambda T^2 KL_T(z_t -> z_k), z_t = mean_i z_i",
      .paper = "third-party code, after Guo et al., CVPR 2020 (none of the paper's four variants)",
      .options = {{.key = "kdcl.T", .default_value = "2", .help = "temperature", .min = 1e-3},
                  {.key = "kdcl.lambda", .default_value = "1", .help = "weight of the KL term", .min = 0},
                  {.key = "mean.a", .default_value = "1", .help = "weight of the cross-entropy", .min = 0}},
      .fidelities = {{"third-party",
                      "0.5 CE + 0.5 KL, T = 4",
                      {{"kdcl.T", "4"}, {"kdcl.lambda", "0.5"}, {"mean.a", "0.5"}}}},
      .make = [](const MethodOptions& o) -> std::unique_ptr<Method> {
        return std::make_unique<KdclMean>(o);
      }};
}

}  // namespace cohort::distill
