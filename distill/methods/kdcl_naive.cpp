#include <fmt/core.h>

#include "distill/logit_loss.h"
#include "distill/methods/methods.h"

namespace cohort::distill {
namespace {

enum class Scope { kSample, kBatch };

// Guo et al., "Online knowledge distillation via collaborative learning", CVPR 2020, eq. 4.
//
//   z_t[b] = z_k[b], k = argmin_i CE(z_i[b], y_b) per sample (or one k per batch),
//   L_k = CE_k + lambda T^2 KL(softmax(z_t/T) || softmax(z_k/T))
class KdclNaive final : public Method {
 public:
  explicit KdclNaive(const MethodOptions& options)
      : temperature_(options.number("kdcl.T")),
        lambda_(options.number("kdcl.lambda")),
        scope_(static_cast<Scope>(options.choice("naive.scope"))) {}

  std::string formula(int) const override {
    return fmt::format(
        "net i: CE(z_i, y) + {:g} T^2 KL(softmax(z_t/T) || softmax(z_i/T)), z_t = logits of the network with "
        "the smallest "
        "CE per {}, T={:g}, batchmean, target detached, simultaneous update",
        lambda_, scope_ == Scope::kSample ? "sample" : "batch", temperature_);
  }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    weights_ = LossWeights::make(ctx, static_cast<int>(probe.size()));
    if (scope_ == Scope::kSample)
      upload_values(ctx, weights_.target, std::vector<double>(probe.size(), lambda_));
  }

  void losses(Context& ctx, StepView& view) override {
    if (scope_ == Scope::kSample) {
      logit_losses(ctx, view, weights_,
                   {.temperature = temperature_, .target_rule = kernels::TargetRule::kNaive});
      return;
    }
    // One winner for the whole batch is a teaching matrix with one column.
    logit_losses_by_choice(ctx, view, weights_, {.temperature = temperature_},
                           {.rule = kernels::SelectRule::kArgmin, .kl = lambda_});
  }

 private:
  double temperature_, lambda_;
  Scope scope_;
  LossWeights weights_;
};

}  // namespace

MethodInfo kdcl_naive_info() {
  return {.name = "kdcl-naive",
          .summary = "one shared soft target: the logits of the network that does best, sample by sample",
          .equation = "L_k = CE_k + lambda T^2 KL_T(z_t -> z_k), z_t = z_argmin CE",
          .paper = "Guo et al., Online knowledge distillation via collaborative learning, CVPR 2020",
          .options = {{.key = "kdcl.T", .default_value = "2", .help = "temperature", .min = 1e-3},
                      {.key = "kdcl.lambda", .default_value = "1", .help = "weight of the KL term", .min = 0},
                      {.key = "naive.scope",
                       .type = OptionType::kChoice,
                       .default_value = "sample",
                       .help = "choose the best network per sample or per batch",
                       .choices = {"sample", "batch"}}},
          .fidelities = {{"paper",
                          "the best network sample by sample, T = 2",
                          {{"kdcl.T", "2"}, {"kdcl.lambda", "1"}, {"naive.scope", "sample"}}},
                         {"batch",
                          "a third-party code: the best network of the whole batch",
                          {{"kdcl.T", "2"}, {"kdcl.lambda", "1"}, {"naive.scope", "batch"}}}},
          .make = [](const MethodOptions& o) -> std::unique_ptr<Method> {
            return std::make_unique<KdclNaive>(o);
          }};
}

}  // namespace cohort::distill
