#include "core/ops/cohort_loss.h"

#include <string>

#include "core/dispatch.h"

namespace cohort::ops {
namespace {

// `t` is empty (where allowed) or has this shape and dtype.
void expect(const Tensor& t, const Shape& shape, DType dtype, const char* what, bool optional = true) {
  if (t.empty() && optional) return;
  if (!t.empty() && t.shape == shape && t.dtype == dtype) return;
  internal_error(std::string("cohort_loss: ") + what + " " + t.shape.to_string() + " " + name_of(t.dtype) +
                 (t.empty() ? " (missing)" : "") + " instead of " + shape.to_string() + " " + name_of(dtype));
}

kernels::CohortLossShape validated_shape(const CohortLossInputs& in) {
  const auto members = static_cast<int>(in.logits.size());
  check(members >= 1 && members <= kernels::kMaxMembers, "cohort_loss: 1 to 16 members");
  const Tensor& first = in.logits.front();
  check(first.shape.rank() == 2, "cohort_loss: logits are (rows, classes)");
  const std::int64_t rows = first.shape[0];
  const std::int64_t classes = first.shape[1];
  const DType a = accumulator_of(first.dtype);
  for (const Tensor& z : in.logits) expect(z, first.shape, first.dtype, "logits", false);
  expect(in.labels, {rows}, DType::i32, "labels", false);
  const bool mixed = !in.mixed_member.empty();
  expect(in.mixed_member, {}, DType::i32, "mixed_member");
  expect(in.mixed_labels, {rows, kernels::kMixedLabels}, DType::i32, "mixed_labels", !mixed);
  expect(in.mixed_weights, {rows, kernels::kMixedLabels}, a, "mixed_weights", !mixed);
  expect(in.ce_weight, {members}, a, "ce_weight");
  expect(in.kl_weight, {members, members}, a, "kl_weight");
  check(!in.choice || in.kl_weight.empty(), "cohort_loss: kl_weight is given, and to be chosen");
  if (in.choice) expect(in.choice->masked_member, {}, DType::i32, "masked_member");
  expect(in.target_weight, {members}, a, "target_weight");
  expect(in.valid_rows, {}, DType::i32, "valid_rows");
  expect(in.given_target, {rows, classes}, a, "given_target", in.target_rule != kernels::TargetRule::kGiven);
  return {first.dtype, members, rows, classes};
}

const std::int32_t* ints(const Tensor& t) {
  return static_cast<const std::int32_t*>(t.data);
}

CohortLossValues allocate_values(Context& ctx, const kernels::CohortLossShape& shape,
                                 const CohortLossInputs& in) {
  const DType a = accumulator_of(shape.dtype);
  const std::int64_t m = shape.members;
  const bool rule = in.target_rule != kernels::TargetRule::kNone;
  CohortLossValues out;
  out.loss = ctx.empty({m}, a);
  out.ce = ctx.empty({m}, a);
  out.kl = ctx.empty({m}, a);
  out.kl_pair = ctx.empty({m, m}, a);
  out.target_kl = ctx.empty({m}, a);
  out.ce_rows = ctx.empty({m, shape.rows}, a);
  if (rule && in.keep_target) out.target = ctx.empty({shape.rows, shape.classes}, a);
  if (rule) out.winner = ctx.empty({shape.rows}, DType::i32);
  out.correct_top1 = ctx.empty({m}, DType::i32);
  out.correct_top5 = ctx.empty({m}, DType::i32);
  if (!in.choice) return out;
  out.selection.teacher = ctx.empty({}, DType::i32);
  out.selection.kl_weight = ctx.empty({m, m}, a);
  out.selection.feature_weight = ctx.empty({m, m}, a);
  return out;
}

}  // namespace

CohortLossValues cohort_loss(Context& ctx, const CohortLossInputs& in) {
  const kernels::CohortLossShape shape = validated_shape(in);
  const CohortLossValues out = allocate_values(ctx, shape, in);
  kernels::CohortLossArgs args{.shape = shape,
                               .labels = ints(in.labels),
                               .mixed_labels = ints(in.mixed_labels),
                               .mixed_weights = in.mixed_weights.data,
                               .mixed_member = ints(in.mixed_member),
                               .temperature = in.temperature,
                               .t_squared = in.t_squared,
                               .attached = in.attached,
                               .all_pairs = in.all_pairs,
                               .target_rule = in.target_rule,
                               .given_target = in.given_target.data,
                               .ce_weight = in.ce_weight.data,
                               .kl_weight = in.kl_weight.data,
                               .target_weight = in.target_weight.data,
                               .valid_rows = ints(in.valid_rows),
                               .loss = out.loss.data,
                               .ce = out.ce.data,
                               .kl = out.kl.data,
                               .kl_pair = out.kl_pair.data,
                               .target_kl = out.target_kl.data,
                               .ce_rows = out.ce_rows.data,
                               .target = out.target.data,
                               .winner = static_cast<std::int32_t*>(out.winner.data),
                               .correct_top1 = static_cast<std::int32_t*>(out.correct_top1.data),
                               .correct_top5 = static_cast<std::int32_t*>(out.correct_top5.data)};
  if (in.choice) {
    args.decision = {.rule = in.choice->rule,
                     .kl = in.choice->kl,
                     .feature = in.choice->feature,
                     .masked_member = ints(in.choice->masked_member),
                     .teacher = static_cast<std::int32_t*>(out.selection.teacher.data),
                     .kl_weight = out.selection.kl_weight.data,
                     .feature_weight = out.selection.feature_weight.data};
  }
  for (std::size_t k = 0; k < in.logits.size(); ++k) {
    args.logits[k] = in.logits[k].data;
    if (!in.gradients) continue;
    if (const GradTarget target = ctx.grad_target(in.logits[k])) {
      args.grad_logits[k] = target.grad.data;
      args.grad_mode[k] = target.mode;
    }
  }
  on_device(ctx, [&](auto stream) {
    kernels::cohort_loss(stream, args, ctx.workspace(kernels::cohort_loss_workspace(stream, shape)));
  });
  return out;
}

}  // namespace cohort::ops
