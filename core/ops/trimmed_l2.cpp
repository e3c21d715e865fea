#include "core/ops/trimmed_l2.h"

#include "core/dispatch.h"
#include "core/ops/map_pair.h"

namespace cohort::ops {

Tensor trimmed_l2(Context& ctx, const Tensor& student, const Tensor& teacher, const Tensor& weight,
                  const TrimmedL2Options& options) {
  check_map_pair("trimmed_l2", student, teacher, weight, options.loss);
  const Tensor value = ctx.empty({}, accumulator_of(student.dtype));
  const GradTarget grad = ctx.grad_target(student);
  const std::int64_t rows = student.shape[0];
  const kernels::TrimmedL2Args args{.shape = {.dtype = student.dtype,
                                              .rows = rows,
                                              .row_size = rows == 0 ? 0 : student.count() / rows,
                                              .per_row = options.per_row},
                                    .student = student.data,
                                    .teacher = teacher.data,
                                    .weight = weight.data,
                                    .valid_rows = static_cast<const std::int32_t*>(options.valid_rows.data),
                                    .grad_student = grad.grad.data,
                                    .grad_mode = grad.mode,
                                    .value = value.data,
                                    .loss = options.loss.data};
  on_device(ctx, [&](auto stream) {
    kernels::trimmed_l2(stream, args, ctx.workspace(kernels::trimmed_l2_workspace(stream, args.shape)));
  });
  return value;
}

}  // namespace cohort::ops
