#include "core/ops/feature_l2.h"

#include "core/dispatch.h"
#include "core/ops/map_pair.h"

namespace cohort::ops {

Tensor feature_l2(Context& ctx, const Tensor& student, const Tensor& teacher, const Tensor& weight,
                  const FeatureL2Options& options) {
  check_map_pair("feature_l2", student, teacher, weight, options.loss);
  const Tensor value = ctx.empty({}, accumulator_of(student.dtype));
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
