#include <fmt/core.h>

#include "distill/logit_loss.h"
#include "distill/methods/methods.h"

namespace cohort::distill {
namespace {

// Guo et al., "Online knowledge distillation via collaborative learning", CVPR 2020, MinLogit.
//
//   z_t[j] = min_i (z_i[j] - z_i[y]),  L_k = CE_k + lambda T^2 KL(softmax(z_t/T) || softmax(z_k/T))
class KdclMinLogit final : public Method {
 public:
  explicit KdclMinLogit(const MethodOptions& options)
      : temperature_(options.number("kdcl.T")), lambda_(options.number("kdcl.lambda")) {}

  std::string formula(int) const override {
    return fmt::format(
        "net i: CE(z_i, y) + {:g} T^2 KL(softmax(z_t/T) || softmax(z_i/T)), z_t[c] = min_k (z_k[c] - "
        "z_k[y]), T={:g}, "
        "batchmean, target detached, simultaneous update",
        lambda_, temperature_);
  }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    weights_ = LossWeights::make(ctx, static_cast<int>(probe.size()));
    upload_values(ctx, weights_.target, std::vector<double>(probe.size(), lambda_));
  }

  void losses(Context& ctx, StepView& view) override {
    logit_losses(ctx, view, weights_,
                 {.temperature = temperature_, .target_rule = kernels::TargetRule::kMinLogit});
  }

 private:
  double temperature_, lambda_;
  LossWeights weights_;
};

}  // namespace

MethodInfo kdcl_minlogit_info() {
  return {
      .name = "kdcl-minlogit",
      .summary = "one shared soft target: per class the smallest margin that any network gives it",
      .equation = "L_k = CE_k + lambda T^2 KL_T(z_t -> z_k), z_t[j] = min_i (z_i[j] - z_i[y])",
      .paper = "Guo et al., Online knowledge distillation via collaborative learning, CVPR 2020",
      .options = {{.key = "kdcl.T", .default_value = "2", .help = "temperature", .min = 1e-3},
                  {.key = "kdcl.lambda", .default_value = "1", .help = "weight of the KL term", .min = 0}},
      .fidelities = {{"paper", "T = 2 on CIFAR-100", {{"kdcl.T", "2"}, {"kdcl.lambda", "1"}}},
                     {"adm-tables",
                      "the baseline of ADM's tables, as far as its text says: T = 1",
                      {{"kdcl.T", "1"}, {"kdcl.lambda", "1"}}}},
      .make = [](const MethodOptions& o) -> std::unique_ptr<Method> {
        return std::make_unique<KdclMinLogit>(o);
      }};
}

}  // namespace cohort::distill
