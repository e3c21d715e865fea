#include <fmt/core.h>

#include "core/ops/weighted_target.h"
#include "distill/ensemble_weights.h"
#include "distill/logit_loss.h"
#include "distill/methods/methods.h"

namespace cohort::distill {
namespace {

// Guo et al., "Online knowledge distillation via collaborative learning", CVPR 2020, eq. 6 to 12: the target
// is an ensemble whose weights generalise best on images that nobody trains on.
//
//   p_t = sum_i w_i softmax_T(z_i),  L_k = CE_k + lambda T^2 KL(p_t || softmax(z_k/T))
//   w = argmin over the simplex of w' C w, C_ij = mean_V (f_i - 1)(f_j - 1), f_i = softmax(z_i)[y]
//
// V are the run's held-out images, seen in evaluation mode; w starts as 1/M and is renewed after every epoch.
class KdclGeneral final : public Method {
 public:
  explicit KdclGeneral(const MethodOptions& options)
      : temperature_(options.number("kdcl.T")),
        lambda_(options.number("kdcl.lambda")),
        rule_(static_cast<WeightRule>(options.choice("general.neg"))),
        measure_(static_cast<ErrorMeasure>(options.choice("general.loss"))) {}

  std::string formula(int) const override {
    constexpr const char* kRules[] = {"minimises w'Cw on the simplex", "is the clipped C^-1 1 / (1' C^-1 1)",
                                      "is C^-1 1 / (1' C^-1 1)"};
    return fmt::format(
        "net i: CE(z_i, y) + {:g} T^2 KL(p_t || softmax(z_i/T)), p_t = sum_k w_k softmax(z_k/T), w {}, C = "
        "{} "
        "on the held-out images, renewed after every epoch, T={:g}, batchmean, target detached, simultaneous "
        "update",
        lambda_, kRules[static_cast<int>(rule_)],
        measure_ == ErrorMeasure::kProbability ? "mean (f_i - 1)(f_j - 1), f = softmax(z)[y],"
                                               : "mean CE_i CE_j",
        temperature_);
  }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    const std::size_t m = probe.size();
    weights_ = LossWeights::make(ctx, static_cast<int>(m));
    upload_values(ctx, weights_.target, std::vector<double>(m, lambda_));
    ensemble_ = ctx.persistent_tensor({static_cast<std::int64_t>(m)}, ctx.parameter_dtype());
    set_state(ctx, std::vector<double>(m, 1.0 / static_cast<double>(m)));
  }

  void losses(Context& ctx, StepView& view) override {
    const Tensor target = ops::weighted_target(ctx, {.logits = logits_of(view),
                                                     .weights = ensemble_,
                                                     .rule = kernels::MixRule::kProbabilities,
                                                     .temperature = temperature_,
                                                     .valid_rows = view.valid_rows});
    logit_losses(
        ctx, view, weights_,
        {.temperature = temperature_, .target_rule = kernels::TargetRule::kGiven, .given_target = target});
  }

  bool wants_held_out() const override { return true; }

  void end_of_epoch(Context& ctx, const HeldOut& v) override {
    const std::vector<double> w = ensemble_weights(error_correlation(v.logits, v.labels, v.classes, measure_),
                                                   static_cast<int>(v.logits.size()), rule_);
    if (!w.empty()) set_state(ctx, w);  // a network that is no longer finite changes nothing
  }

  std::vector<double> state() const override { return w_; }
  void set_state(Context& ctx, const std::vector<double>& state) override {
    check(static_cast<std::int64_t>(state.size()) == ensemble_.count(),
          "kdcl-general: one weight per network");
    w_ = state;
    upload_values(ctx, ensemble_, w_);
  }

 private:
  double temperature_, lambda_;
  WeightRule rule_;
  ErrorMeasure measure_;
  LossWeights weights_;
  std::vector<double> w_;
  Tensor ensemble_;  // (M) A: w_ on the device
};

}  // namespace

MethodInfo kdcl_general_info() {
  return {
      .name = "kdcl-general",
      .summary = "one shared soft target: an ensemble weighted by errors on held-out images",
      .equation = "L_k = CE_k + lambda T^2 KL(sum_i w_i softmax_T(z_i) || softmax_T(z_k)), w = argmin w'Cw",
      .paper = "Guo et al., Online knowledge distillation via collaborative learning, CVPR 2020",
      .options = {{.key = "kdcl.T", .default_value = "2", .help = "temperature", .min = 1e-3},
                  {.key = "kdcl.lambda", .default_value = "1", .help = "weight of the KL term", .min = 0},
                  {.key = "general.neg",
                   .type = OptionType::kChoice,
                   .default_value = "simplex",
                   .help = "weights below 0: none by construction, cut off the closed form, or kept",
                   .choices = {"simplex", "clip", "allow"}},
                  {.key = "general.loss",
                   .type = OptionType::kChoice,
                   .default_value = "probability",
                   .help = "an image's error: 1 - the label's probability, or the cross-entropy",
                   .choices = {"probability", "ce"}}},
      .fidelities =
          {{"paper",
            "errors as 1 - p, T = 2; weights by construction within 0 and 1, which equation 11 wants but "
            "does not "
            "give; hold out a tenth yourself (--val-fraction 0.1)",
            {{"kdcl.T", "2"},
             {"kdcl.lambda", "1"},
             {"general.loss", "probability"},
             {"general.neg", "simplex"}}},
           {"paper-ce",
            "errors as cross-entropies (equation 12), the rest as in paper",
            {{"kdcl.T", "2"}, {"kdcl.lambda", "1"}, {"general.loss", "ce"}, {"general.neg", "simplex"}}},
           {"adm-tables",
            "the baseline of ADM's tables, as far as its text says: T = 1",
            {{"kdcl.T", "1"}, {"kdcl.lambda", "1"}}}},
      .make = [](const MethodOptions& o) -> std::unique_ptr<Method> {
        return std::make_unique<KdclGeneral>(o);
      }};
}

}  // namespace cohort::distill
