#include "core/ops/simplex_fit.h"

#include "core/dispatch.h"

namespace cohort::ops {

Tensor simplex_fit(Context& ctx, const SimplexFitInputs& in) {
  const auto members = static_cast<std::int64_t>(in.logits.size());
  check(members >= 1 && members <= kernels::kMaxMembers, "simplex_fit: 1 to 16 members");
  const Tensor& first = in.logits.front();
  check(first.shape.rank() == 2, "simplex_fit: logits are (rows, classes)");
  check(in.labels.dtype == DType::i32 && in.labels.shape == Shape{first.shape[0]},
        "simplex_fit: labels are (rows) i32");
  const DType a = accumulator_of(first.dtype);
  const bool batch = in.scope == kernels::FitScope::kBatch;
  const Tensor weights = ctx.empty(batch ? Shape{members} : Shape{first.shape[0], members}, a);
  kernels::SimplexFitArgs args{
      .shape = {first.dtype, static_cast<int>(members), first.shape[0], first.shape[1]},
      .labels = static_cast<const std::int32_t*>(in.labels.data),
      .scope = in.scope,
      .valid_rows = static_cast<const std::int32_t*>(in.valid_rows.data),
      .weights = weights.data};
  for (std::size_t k = 0; k < in.logits.size(); ++k) {
    check(in.logits[k].shape == first.shape && in.logits[k].dtype == first.dtype,
          "simplex_fit: logits of different shapes or types");
    args.logits[k] = in.logits[k].data;
  }
  on_device(ctx, [&](auto stream) {
    kernels::simplex_fit(stream, args, ctx.workspace(kernels::simplex_fit_workspace(stream, args.shape)));
  });
  return weights;
}

}  // namespace cohort::ops
