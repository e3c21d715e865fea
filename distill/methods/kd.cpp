#include <fmt/core.h>

#include "distill/logit_loss.h"
#include "distill/methods/methods.h"

namespace cohort::distill {
namespace {

// Hinton et al., "Distilling the knowledge in a neural network", 2015. Member 0 is the teacher: frozen,
// evaluation mode.
//
//   L_s = a CE_s + b T^2 KL_T(z_t -> z_s)
class Kd final : public Method {
 public:
  explicit Kd(const MethodOptions& options)
      : a_(options.number("kd.a")), b_(options.number("kd.b")), temperature_(options.number("kd.T")) {}

  std::string formula(int members) const override {
    return fmt::format(
        "net 0: frozen teacher; net 1..{0}: {1:g} CE(z_i, y) + {2:g} T^2 KL(softmax(z_0/T) || "
        "softmax(z_i/T)), T={3:g}, "
        "batchmean, teacher in evaluation mode",
        members - 1, a_, b_, temperature_);
  }

  void check_members(int members) const override {
    Method::check_members(members);
    check_teacher_and_student("kd", members);
  }

  bool frozen(int member) const override { return member == 0; }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    weights_ = LossWeights::of_students(ctx, static_cast<int>(probe.size()), a_, b_);
  }

  void losses(Context& ctx, StepView& view) override {
    logit_losses(ctx, view, weights_, {.temperature = temperature_});
  }

 private:
  double a_, b_, temperature_;
  LossWeights weights_;
};

}  // namespace

MethodInfo kd_info() {
  return {
      .name = "kd",
      .summary = "a frozen teacher (the first network, from a checkpoint) teaches every other network",
      .equation = "L_s = a CE_s + b T^2 KL_T(z_t -> z_s)",
      .paper = "Hinton et al., Distilling the knowledge in a neural network, 2015",
      .options = {{.key = "kd.a", .default_value = "0.1", .help = "weight of the cross-entropy", .min = 0},
                  {.key = "kd.b", .default_value = "0.9", .help = "weight of the KL divergence", .min = 0},
                  {.key = "kd.T", .default_value = "4", .help = "temperature", .min = 1e-3}},
      .fidelities = {{"crd",
                      "RepDistiller and mdistiller on CIFAR-100: 0.1 CE + 0.9 KL, T = 4",
                      {{"kd.a", "0.1"}, {"kd.b", "0.9"}, {"kd.T", "4"}}},
                     {"mdistiller-imagenet",
                      "mdistiller and torchdistill on ImageNet: 0.5 CE + 0.5 KL, T = 1",
                      {{"kd.a", "0.5"}, {"kd.b", "0.5"}, {"kd.T", "1"}}},
                     {"kdcl-table7",
                      "KDCL's table 7, \"i distill j\": CE + KL, T = 2",
                      {{"kd.a", "1"}, {"kd.b", "1"}, {"kd.T", "2"}}}},
      .make = [](const MethodOptions& o) -> std::unique_ptr<Method> { return std::make_unique<Kd>(o); }};
}

}  // namespace cohort::distill
