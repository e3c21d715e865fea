#include "distill/logit_loss.h"
#include "distill/methods/methods.h"

namespace cohort::distill {
namespace {

// L_k = CE_k: the baseline. The networks share batches and nothing else.
class Independent final : public Method {
 public:
  std::string formula(int) const override { return "net i: CE(z_i, y)"; }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    weights_ = LossWeights::make(ctx, static_cast<int>(probe.size()));
  }

  void losses(Context& ctx, StepView& view) override { logit_losses(ctx, view, weights_, {}); }

 private:
  LossWeights weights_;
};

}  // namespace

MethodInfo independent_info() {
  return {.name = "independent",
          .summary = "nobody teaches: every network trains alone on the shared batches",
          .equation = "L_k = CE_k",
          .paper = "the baseline of every table",
          .options = {},
          .make = [](const MethodOptions&) -> std::unique_ptr<Method> {
            return std::make_unique<Independent>();
          }};
}

}  // namespace cohort::distill
