#include "core/ops/trimmed_l2.h"

#include "core/dispatch.h"

namespace cohort::ops {

Tensor trimmed_l2(Context& ctx, const Tensor& student, const Tensor& teacher, const Tensor& weight,
                  const TrimmedL2Options& options) {
  const DType a = accumulator_of(student.dtype);
  if (student.shape != teacher.shape || student.dtype != teacher.dtype || student.shape.rank() < 1) {
    internal_error("trimmed_l2: student " + student.shape.to_string() + " " + name_of(student.dtype) +
                   " vs teacher " + teacher.shape.to_string() + " " + name_of(teacher.dtype));
  }
  check(weight.count() == 1 && weight.dtype == a, "trimmed_l2: weight is one number of accumulator dtype");
  check(options.loss.empty() || (options.loss.count() == 1 && options.loss.dtype == a),
        "trimmed_l2: loss is one number of accumulator dtype");
  const Tensor value = ctx.empty({}, a);
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
