#include "core/ops/switch_rule.h"

#include "core/dispatch.h"

namespace cohort::ops {

SwitchDecision switch_rule(Context& ctx, const SwitchRuleInputs& in) {
  const auto members = static_cast<std::int64_t>(in.logits.size());
  check(members >= 2 && members <= kernels::kMaxSwitchMembers, "switch_rule: two or three members");
  const Tensor& first = in.logits.front();
  check(first.shape.rank() == 2, "switch_rule: logits are (rows, classes)");
  check(in.labels.dtype == DType::i32 && in.labels.shape == Shape{first.shape[0]},
        "switch_rule: labels are (rows) i32");
  const DType a = accumulator_of(first.dtype);
  const SwitchDecision out{ctx.empty({members}, a), ctx.empty({members, members}, a),
                           ctx.empty({members}, DType::i32), ctx.empty({members}, DType::i32)};
  kernels::SwitchRuleArgs args{
      .shape = {first.dtype, static_cast<int>(members), first.shape[0], first.shape[1]},
      .labels = static_cast<const std::int32_t*>(in.labels.data),
      .valid_rows = static_cast<const std::int32_t*>(in.valid_rows.data),
      .roles = in.roles,
      .tau = in.tau,
      .guard = in.guard,
      .code_compat = in.code_compat,
      .ce_weight = out.ce_weight.data,
      .kl_weight = out.kl_weight.data,
      .step_mask = out.step_mask.as<std::int32_t>(),
      .mode = out.mode.as<std::int32_t>()};
  for (std::size_t k = 0; k < in.logits.size(); ++k) {
    check(in.logits[k].shape == first.shape && in.logits[k].dtype == first.dtype,
          "switch_rule: logits of different shapes or types");
    args.logits[k] = in.logits[k].data;
  }
  on_device(ctx, [&](auto stream) {
    kernels::switch_rule(stream, args, ctx.workspace(kernels::switch_rule_workspace(stream, args.shape)));
  });
  return out;
}

}  // namespace cohort::ops
