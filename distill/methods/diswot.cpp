#include <fmt/core.h>

#include "core/ops/loss_select.h"
#include "core/ops/relation_loss.h"
#include "core/ops/semantic_loss.h"
#include "distill/adapters.h"
#include "distill/logit_loss.h"
#include "distill/methods/methods.h"

namespace cohort::distill {
namespace {

// Dong et al., "DisWOT: student architecture search for distillation without training", CVPR 2023, as a
// distiller. Member 0 is the teacher: frozen, evaluation mode.
//
//   L_s = a CE_s + b T^2 KL_T(z_t -> z_s) + l1 R + l2 Sem
//
// R: distance of the relations between samples (ops/relation_loss.h) of the last maps. Sem: distance of the
// class semantics (ops/semantic_loss.h); where the pooled vectors differ in size, the student's goes through
// a linear adapter. Both are formulas of logits, maps and labels, so their gradients need no second
// derivatives of the networks.
class DisWot final : public Method {
 public:
  explicit DisWot(const MethodOptions& options)
      : a_(options.number("diswot.a")),
        b_(options.number("diswot.b")),
        temperature_(options.number("diswot.T")),
        relation_(options.number("diswot.l1")),
        semantic_(options.number("diswot.l2")) {}

  std::string formula(int members) const override {
    return fmt::format(
        "net 0: frozen teacher; net 1..{}: {:g} CE(z_i, y) + {:g} T^2 KL(softmax(z_0/T) || softmax(z_i/T)) + "
        "{:g} R + {:g} Sem, T={:g}; R: squared distance of the samples' normalised Gram matrices of the last "
        "maps / B^2, Sem: of the normalised outer products of dCE/dW per class / (classes d), batchmean, "
        "teacher in evaluation mode",
        members - 1, a_, b_, relation_, semantic_, temperature_);
  }

  void check_members(int members) const override {
    Method::check_members(members);
    check_teacher_and_student("diswot", members);
  }

  bool frozen(int member) const override { return member == 0; }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    const std::size_t m = probe.size();
    weights_ = LossWeights::of_students(ctx, static_cast<int>(m), a_, b_);
    relation_weight_ = constant(ctx, {}, {relation_});
    semantic_weight_ = constant(ctx, {}, {semantic_});
    std::vector<std::vector<Tensor>> vectors;
    for (const models::Outputs& outputs : probe) {
      if (outputs.pooled.empty()) {
        throw Error(ErrorKind::kUsage, "diswot compares feature maps, and there are none",
                    "give features_K for every network");
      }
      vectors.push_back({as_map(outputs.pooled)});
    }
    if (semantic_ == 0) return;
    for (std::size_t student = 1; student < m; ++student)
      adapters_.add(vectors, static_cast<int>(student), 0, {0, 0});
    adapters_.materialize(ctx);
  }

  std::vector<ParameterSet*> extra_parameters(int member) override { return adapters_.of(member); }

  void losses(Context& ctx, StepView& view) override {
    logit_losses(ctx, view, weights_, {.temperature = temperature_});
  }

  void feature_losses(Context& ctx, StepView& view, int member) override {
    const models::Outputs &student = view.outputs[static_cast<std::size_t>(member)],
                          &teacher = view.outputs[0];
    const Tensor loss = ops::entry(view.report.loss, member);
    if (relation_ > 0) {
      const Tensor value = ops::relation_loss(ctx, {.student = student.stages.back(),
                                                    .teacher = teacher.stages.back().detached(),
                                                    .weight = relation_weight_,
                                                    .valid_rows = view.valid_rows,
                                                    .loss = loss});
      view.report.feature_terms.push_back({member, relation_weight_, value});
    }
    if (semantic_ > 0) {
      const Adapters::Maps features =
          adapters_.match(ctx, as_map(student.pooled), as_map(teacher.pooled), member, 0, 0);
      const Tensor value = ops::semantic_loss(ctx, {.student_logits = student.logits,
                                                    .teacher_logits = teacher.logits.detached(),
                                                    .student_features = features.student,
                                                    .teacher_features = features.teacher,
                                                    .labels = view.labels,
                                                    .weight = semantic_weight_,
                                                    .valid_rows = view.valid_rows,
                                                    .loss = loss});
      view.report.feature_terms.push_back({member, semantic_weight_, value});
    }
  }

 private:
  // (N, C) as a map of one pixel.
  static Tensor as_map(const Tensor& pooled) {
    Tensor map = pooled;
    map.shape = {pooled.shape[0], 1, 1, pooled.shape[1]};
    return map;
  }

  double a_, b_, temperature_, relation_, semantic_;
  LossWeights weights_;
  Tensor relation_weight_, semantic_weight_;
  Adapters adapters_;
};

}  // namespace

MethodInfo diswot_info() {
  return {
      .name = "diswot",
      .summary = "a frozen teacher teaches, also how samples relate and what tells classes apart",
      .equation = "L_s = a CE_s + b T^2 KL_T(z_t -> z_s) + l1 R + l2 Sem",
      .paper =
          "Dong et al., DisWOT: student architecture search for distillation without training, CVPR 2023",
      .options = {{.key = "diswot.a", .default_value = "1", .help = "weight of the cross-entropy", .min = 0},
                  {.key = "diswot.b", .default_value = "1", .help = "weight of the KL divergence", .min = 0},
                  {.key = "diswot.T", .default_value = "4", .help = "temperature", .min = 1e-3},
                  {.key = "diswot.l1",
                   .default_value = "1",
                   .help = "weight of the distance of relations between samples",
                   .min = 0},
                  {.key = "diswot.l2",
                   .default_value = "1",
                   .help = "weight of the distance of class semantics",
                   .min = 0}},
      .make = [](const MethodOptions& o) -> std::unique_ptr<Method> { return std::make_unique<DisWot>(o); }};
}

}  // namespace cohort::distill
