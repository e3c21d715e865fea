#include "core/ops/feature_l2.h"

#include "core/dispatch.h"

namespace cohort::ops {

Tensor feature_l2(Context& ctx, const Tensor& student, const Tensor& teacher, const Tensor& weight,
                  const FeatureL2Options& options) {
  const DType a = accumulator_of(student.dtype);
  if (student.shape != teacher.shape || student.dtype != teacher.dtype || student.shape.rank() < 1) {
    internal_error("feature_l2: student " + student.shape.to_string() + " " + name_of(student.dtype) +
                   " vs teacher " + teacher.shape.to_string() + " " + name_of(teacher.dtype));
  }
  check(weight.count() == 1 && weight.dtype == a, "feature_l2: weight is one number of accumulator dtype");
  check(options.loss.empty() || (options.loss.count() == 1 && options.loss.dtype == a),
        "feature_l2: loss is one number of accumulator dtype");
  const Tensor value = ctx.empty({}, a);
  const GradTarget grad = ctx.grad_target(student);
  const std::int64_t rows = student.shape[0];
  const kernels::FeatureL2Args args{.dtype = student.dtype,
                                    .rows = rows,
                                    .row_size = rows == 0 ? 0 : student.count() / rows,
                                    .reduction = options.reduction,
                                    .student = student.data,
                                    .teacher = teacher.data,
                                    .weight = weight.data,
                                    .valid_rows = static_cast<const std::int32_t*>(options.valid_rows.data),
                                    .grad_student = grad.grad.data,
                                    .grad_mode = grad.mode,
                                    .value = value.data,
                                    .loss = options.loss.data};
  on_device(ctx, [&](auto stream) {
    kernels::feature_l2(stream, args, ctx.workspace(kernels::feature_l2_workspace(student.count())));
  });
  return value;
}

}  // namespace cohort::ops
