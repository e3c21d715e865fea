#include <fmt/core.h>

#include "core/ops/switch_rule.h"
#include "distill/logit_loss.h"
#include "distill/methods/methods.h"

namespace cohort::distill {
namespace {

// Qian et al., "Switchable online knowledge distillation", ECCV 2022: the teacher pauses while it is too far
// ahead of its student.
//
//   s = mean |p_s - Y|_1, t = mean |p_t - Y|_1, G = mean |p_s - p_t|_1, delta = s - exp(-t/(s+t)) t
//   L_s = CE_s + KL(z_t -> z_s);  EXPERT iff G > delta (and t < s): the teacher is not updated,
//   else LEARNING: L_t = CE_t + KL(z_s -> z_t)
//
// The first network teaches; of three networks the first teaches two (1t2s) or the first two teach the third
// (2t1s). A paused teacher still goes forward in training mode, so its batch norm statistics move; its
// parameters and momenta do not.
class SwitOkd final : public Method {
 public:
  explicit SwitOkd(const MethodOptions& options)
      : two_teachers_(options.choice("swit.roles") == 1),
        guard_(options.flag("swit.guard")),
        code_compat_(options.flag("swit.code_compat")),
        tau_(options.number("swit.tau")) {}

  std::string formula(int members) const override {
    const char* roles = members == 2    ? "net 0 teaches net 1"
                        : two_teachers_ ? "nets 0 and 1 teach net 2"
                                        : "net 0 teaches nets 1 and 2";
    return fmt::format(
        "{}; net i: CE(z_i, y) + sum_(j != i) KL(softmax(z_j) || softmax(z_i)); a teacher t is paused by "
        "student "
        "s where mean|p_s - p_t|_1 > s - exp(-t/(s+t)) t{}, s = mean|p_s - Y|_1, t = mean|p_t - Y|_1, "
        "p = softmax(z/{:g}){}; batchmean, targets detached, simultaneous update",
        roles, guard_ ? " and t < s" : "", tau_, code_compat_ ? "; as the published code" : "");
  }

  void check_members(int members) const override {
    if (members == 2 || members == 3) return;
    throw Error(ErrorKind::kUsage, fmt::format("switokd trains two or three networks, not {}", members),
                "the first --net is the teacher; of three, distill.swit.roles says who teaches");
  }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    weights_ = LossWeights::make(ctx, static_cast<int>(probe.size()));
  }

  void losses(Context& ctx, StepView& view) override {
    const bool two = two_teachers_ && view.members() == 3;
    const ops::SwitchDecision decision = ops::switch_rule(
        ctx, {.logits = logits_of(view),
              .labels = view.labels,
              .valid_rows = view.valid_rows,
              .roles = two ? kernels::SwitchRoles::kTwoTeachers : kernels::SwitchRoles::kOneTeacher,
              .tau = tau_,
              .guard = guard_,
              .code_compat = code_compat_});
    LossWeights weights = weights_;
    weights.ce = decision.ce_weight;
    weights.kl = decision.kl_weight;
    logit_losses(ctx, view, weights, {});
    view.report.step_mask = decision.step_mask;
    view.report.mode = decision.mode;
  }

 private:
  bool two_teachers_, guard_, code_compat_;
  double tau_;
  LossWeights weights_;
};

}  // namespace

MethodInfo switokd_info() {
  return {
      .name = "switokd",
      .summary = "the first network teaches and learns, and pauses while it is too far ahead",
      .equation = "L_s = CE_s + KL(z_t -> z_s); L_t = CE_t + KL(z_s -> z_t) unless the gap exceeds delta",
      .paper = "Qian et al., Switchable online knowledge distillation, ECCV 2022",
      .options = {{.key = "swit.roles",
                   .type = OptionType::kChoice,
                   .default_value = "1t2s",
                   .help = "of three networks: the first teaches two, or the first two teach the third",
                   .choices = {"1t2s", "2t1s"}},
                  {.key = "swit.guard",
                   .type = OptionType::kBool,
                   .default_value = "true",
                   .help = "pause a teacher only while it is better than its student (published code)"},
                  {.key = "swit.tau",
                   .default_value = "1",
                   .help = "temperature of the predictions whose distances decide",
                   .min = 1e-3},
                  {.key = "swit.code_compat",
                   .type = OptionType::kBool,
                   .default_value = "false",
                   .help = "repeat the slips of the published code for three networks"}},
      .fidelities = {{"paper",
                      "the formula, without the code's guard; not here: a tau of its own, which the paper "
                      "does not name",
                      {{"swit.guard", "false"}, {"swit.tau", "1"}, {"swit.code_compat", "false"}}},
                     {"code",
                      "the guard, T = 1, and the slips with three networks",
                      {{"swit.guard", "true"}, {"swit.tau", "1"}, {"swit.code_compat", "true"}}}},
      .make = [](const MethodOptions& o) -> std::unique_ptr<Method> { return std::make_unique<SwitOkd>(o); }};
}

}  // namespace cohort::distill
