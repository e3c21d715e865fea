#include "core/ops/temporal_target.h"

#include "core/dispatch.h"

namespace cohort::ops {

Tensor temporal_target(Context& ctx, const TemporalTargetInputs& in) {
  if (in.logits.shape.rank() != 2 || in.labels.count() != in.logits.shape[0])
    internal_error("temporal_target: logits " + in.logits.shape.to_string() + " and labels " +
                   in.labels.shape.to_string());
  const DType a = accumulator_of(in.logits.dtype);
  check(in.delta.count() == 1 && in.delta.dtype == a,
        "temporal_target: delta is one number of accumulator dtype");
  const std::int64_t rows = in.logits.shape[0], classes = in.logits.shape[1];
  std::int64_t samples = 0;
  if (!in.table.empty()) {
    check(in.table.shape.rank() == 2 && in.table.shape[1] == classes && in.table.dtype == a,
          "temporal_target: the table is (samples, classes) of accumulator dtype");
    check(in.indices.count() == rows && in.indices.dtype == DType::i32,
          "temporal_target: indices are (N) i32");
    samples = in.table.shape[0];
  }
  check(in.former.empty() || (in.former.shape == in.logits.shape && in.former.dtype == in.logits.dtype),
        "temporal_target: former answers are like the present ones");
  const Tensor target = ctx.empty({rows, classes}, a);
  const kernels::TemporalTargetArgs args{.dtype = in.logits.dtype,
                                         .rows = rows,
                                         .classes = classes,
                                         .samples = samples,
                                         .logits = in.logits.data,
                                         .labels = in.labels.as<std::int32_t>(),
                                         .indices = static_cast<const std::int32_t*>(in.indices.data),
                                         .delta = in.delta.data,
                                         .valid_rows = static_cast<const std::int32_t*>(in.valid_rows.data),
                                         .table = in.table.data,
                                         .former = in.former.data,
                                         .target = target.data};
  on_device(ctx, [&](auto stream) { kernels::temporal_target(stream, args); });
  return target;
}

}  // namespace cohort::ops
