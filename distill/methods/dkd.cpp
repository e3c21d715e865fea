#include <fmt/core.h>

#include "core/ops/dkd_loss.h"
#include "core/ops/loss_select.h"
#include "distill/logit_loss.h"
#include "distill/methods/methods.h"

namespace cohort::distill {
namespace {

// Zhao et al., "Decoupled knowledge distillation", CVPR 2022. Member 0 is the teacher: frozen, evaluation
// mode.
//
//   L_s = CE_s + min(e/W, 1) (alpha TCKD + beta NCKD), e = epoch from 1
class Dkd final : public Method {
 public:
  explicit Dkd(const MethodOptions& options)
      : alpha_(options.number("dkd.alpha")),
        beta_(options.number("dkd.beta")),
        temperature_(options.number("dkd.T")),
        warmup_(options.number("dkd.warmup")) {}

  std::string formula(int members) const override {
    const std::string factor = warmup_ > 0 ? fmt::format("min(epoch/{:g}, 1) ", warmup_) : "";
    return fmt::format(
        "net 0: frozen teacher; net 1..{}: CE(z_i, y) + {}({:g} TCKD + {:g} NCKD), "
        "TCKD = T^2 KL of (p[y], 1-p[y]), NCKD = T^2 KL over the other classes, p = softmax(z/T), T={:g}, "
        "batchmean, teacher in evaluation mode",
        members - 1, factor, alpha_, beta_, temperature_);
  }

  void check_members(int members) const override {
    Method::check_members(members);
    check_teacher_and_student("dkd", members);
  }

  bool frozen(int member) const override { return member == 0; }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    weights_ = LossWeights::make(ctx, static_cast<int>(probe.size()));
  }

  void losses(Context& ctx, StepView& view) override {
    logit_losses(ctx, view, weights_, {});
    for (int student = 1; student < view.members(); ++student) {
      ops::dkd_loss(ctx, {.student = view.outputs[static_cast<std::size_t>(student)].logits,
                          .teacher = view.outputs[0].logits,
                          .labels = view.labels,
                          .valid_rows = view.valid_rows,
                          .epoch = view.epoch,
                          .temperature = temperature_,
                          .alpha = alpha_,
                          .beta = beta_,
                          .warmup = warmup_,
                          .loss = ops::entry(view.report.loss, student),
                          .kl = ops::entry(view.report.kl, student)});
    }
  }

 private:
  double alpha_, beta_, temperature_, warmup_;
  LossWeights weights_;
};

}  // namespace

MethodInfo dkd_info() {
  return {.name = "dkd",
          .summary = "a frozen teacher teaches the label's probability and the other classes separately",
          .equation = "L_s = CE_s + min(e/W, 1) (alpha TCKD + beta NCKD)",
          .paper = "Zhao et al., Decoupled knowledge distillation, CVPR 2022",
          .options = {{.key = "dkd.alpha", .default_value = "1", .help = "weight of TCKD", .min = 0},
                      {.key = "dkd.beta", .default_value = "8", .help = "weight of NCKD", .min = 0},
                      {.key = "dkd.T", .default_value = "4", .help = "temperature", .min = 1e-3},
                      {.key = "dkd.warmup",
                       .default_value = "20",
                       .help = "epochs over which the distillation terms grow to their weights; 0: none",
                       .min = 0}},
          .fidelities =
              {{"mdistiller-resnet32x4",
                "mdistiller on CIFAR-100, ResNet-32x4 as teacher and ResNet-50 to MobileNetV2: beta = 8, T = "
                "4, W = 20",
                {{"dkd.alpha", "1"}, {"dkd.beta", "8"}, {"dkd.T", "4"}, {"dkd.warmup", "20"}}},
               {"mdistiller-resnet56",
                "mdistiller on CIFAR-100, ResNet-56 to ResNet-20: beta = 2, T = 4, W = 20",
                {{"dkd.alpha", "1"}, {"dkd.beta", "2"}, {"dkd.T", "4"}, {"dkd.warmup", "20"}}},
               {"mdistiller-wrn",
                "mdistiller on CIFAR-100, wide ResNets, and VGG-13 to MobileNetV2: beta = 6, T = 4, W = 20",
                {{"dkd.alpha", "1"}, {"dkd.beta", "6"}, {"dkd.T", "4"}, {"dkd.warmup", "20"}}},
               {"mdistiller-imagenet",
                "mdistiller on ImageNet, ResNet-34 to ResNet-18: beta = 0.5, T = 1, W = 1",
                {{"dkd.alpha", "1"}, {"dkd.beta", "0.5"}, {"dkd.T", "1"}, {"dkd.warmup", "1"}}}},
          .make = [](const MethodOptions& o) -> std::unique_ptr<Method> { return std::make_unique<Dkd>(o); }};
}

}  // namespace cohort::distill
