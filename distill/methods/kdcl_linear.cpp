#include <fmt/core.h>

#include "core/ops/simplex_fit.h"
#include "core/ops/weighted_target.h"
#include "distill/logit_loss.h"
#include "distill/methods/methods.h"

namespace cohort::distill {
namespace {

// Guo et al., "Online knowledge distillation via collaborative learning", CVPR 2020, eq. 5: the convex
// combination of all logits that has the smallest cross-entropy, solved per sample (or once per batch).
//
//   alpha = argmin over the simplex of CE(sum_i alpha_i z_i, y),  z_t = sum_i alpha_i z_i,
//   L_k = CE_k + lambda T^2 KL(softmax(z_t/T) || softmax(z_k/T))
class KdclLinear final : public Method {
 public:
  explicit KdclLinear(const MethodOptions& options)
      : temperature_(options.number("kdcl.T")),
        lambda_(options.number("kdcl.lambda")),
        scope_(static_cast<kernels::FitScope>(options.choice("linear.scope"))) {}

  std::string formula(int) const override {
    return fmt::format(
        "net i: CE(z_i, y) + {:g} T^2 KL(softmax(z_t/T) || softmax(z_i/T)), z_t = sum_k alpha_k z_k with the "
        "smallest CE over the simplex, per {}, T={:g}, batchmean, target detached, simultaneous update",
        lambda_, scope_ == kernels::FitScope::kSample ? "sample" : "batch", temperature_);
  }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    weights_ = LossWeights::make(ctx, static_cast<int>(probe.size()));
    upload_values(ctx, weights_.target, std::vector<double>(probe.size(), lambda_));
  }

  void losses(Context& ctx, StepView& view) override {
    const std::vector<Tensor> logits = logits_of(view);
    const Tensor alpha = ops::simplex_fit(
        ctx, {.logits = logits, .labels = view.labels, .scope = scope_, .valid_rows = view.valid_rows});
    const Tensor target = ops::weighted_target(
        ctx,
        {.logits = logits, .weights = alpha, .temperature = temperature_, .valid_rows = view.valid_rows});
    logit_losses(
        ctx, view, weights_,
        {.temperature = temperature_, .target_rule = kernels::TargetRule::kGiven, .given_target = target});
  }

 private:
  double temperature_, lambda_;
  kernels::FitScope scope_;
  LossWeights weights_;
};

}  // namespace

MethodInfo kdcl_linear_info() {
  return {
      .name = "kdcl-linear",
      .summary = "one shared soft target: the combination of all logits that fits the label best",
      .equation = "L_k = CE_k + lambda T^2 KL_T(z_t -> z_k), z_t = sum_i alpha_i z_i, alpha = argmin CE(z_t)",
      .paper = "Guo et al., Online knowledge distillation via collaborative learning, CVPR 2020",
      .options = {{.key = "kdcl.T", .default_value = "2", .help = "temperature", .min = 1e-3},
                  {.key = "kdcl.lambda", .default_value = "1", .help = "weight of the KL term", .min = 0},
                  {.key = "linear.scope",
                   .type = OptionType::kChoice,
                   .default_value = "sample",
                   .help = "solve for the combination per sample or once per batch",
                   .choices = {"sample", "batch"}}},
      .fidelities = {{"paper",
                      "the combination sample by sample, T = 2",
                      {{"kdcl.T", "2"}, {"kdcl.lambda", "1"}, {"linear.scope", "sample"}}}},
      .make = [](const MethodOptions& o) -> std::unique_ptr<Method> {
        return std::make_unique<KdclLinear>(o);
      }};
}

}  // namespace cohort::distill
