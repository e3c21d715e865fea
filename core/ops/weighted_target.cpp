#include "core/ops/weighted_target.h"

#include "core/dispatch.h"

namespace cohort::ops {

Tensor weighted_target(Context& ctx, const WeightedTargetInputs& in) {
  const auto members = static_cast<std::int64_t>(in.logits.size());
  check(members >= 1 && members <= kernels::kMaxMembers, "weighted_target: 1 to 16 members");
  const Tensor& first = in.logits.front();
  check(first.shape.rank() == 2, "weighted_target: logits are (rows, classes)");
  const DType a = accumulator_of(first.dtype);
  const bool per_row = in.weights.shape == Shape{first.shape[0], members};
  if (in.weights.dtype != a || (!per_row && in.weights.shape != Shape{members})) {
    internal_error("weighted_target: weights " + in.weights.shape.to_string() + " " +
                   name_of(in.weights.dtype) + " for " + std::to_string(members) + " members of " +
                   first.shape.to_string());
  }
  const Tensor target = ctx.empty(first.shape, a);
  kernels::WeightedTargetArgs args{
      .shape = {first.dtype, static_cast<int>(members), first.shape[0], first.shape[1]},
      .weights = in.weights.data,
      .per_row = per_row,
      .rule = in.rule,
      .temperature = in.temperature,
      .valid_rows = static_cast<const std::int32_t*>(in.valid_rows.data),
      .target = target.data};
  for (std::size_t k = 0; k < in.logits.size(); ++k) {
    check(in.logits[k].shape == first.shape && in.logits[k].dtype == first.dtype,
          "weighted_target: logits of different shapes or types");
    args.logits[k] = in.logits[k].data;
  }
  on_device(ctx, [&](auto stream) {
    kernels::weighted_target(stream, args,
                             ctx.workspace(kernels::weighted_target_workspace(stream, args.shape)));
  });
  return target;
}

}  // namespace cohort::ops
