#include "core/ops/dkd_loss.h"

#include "core/dispatch.h"

namespace cohort::ops {

void dkd_loss(Context& ctx, const DkdLossInputs& in) {
  const Shape& shape = in.student.shape;
  check(shape.rank() == 2 && in.teacher.shape == shape && in.teacher.dtype == in.student.dtype,
        "dkd_loss: student and teacher are (rows, classes) of one type");
  check(in.labels.dtype == DType::i32 && in.labels.shape == Shape{shape[0]},
        "dkd_loss: labels are (rows) i32");
  const DType a = accumulator_of(in.student.dtype);
  check(in.loss.count() == 1 && in.loss.dtype == a && in.kl.count() == 1 && in.kl.dtype == a,
        "dkd_loss: loss and kl are scalars");
  kernels::DkdLossArgs args{.dtype = in.student.dtype,
                            .rows = shape[0],
                            .classes = shape[1],
                            .temperature = in.temperature,
                            .alpha = in.alpha,
                            .beta = in.beta,
                            .warmup = in.warmup,
                            .student = in.student.data,
                            .teacher = in.teacher.data,
                            .labels = in.labels.as<std::int32_t>(),
                            .epoch = static_cast<const std::int32_t*>(in.epoch.data),
                            .valid_rows = static_cast<const std::int32_t*>(in.valid_rows.data),
                            .loss = in.loss.data,
                            .kl = in.kl.data};
  if (const GradTarget target = ctx.grad_target(in.student)) {
    args.grad_student = target.grad.data;
    args.grad_mode = target.mode;
  }
  on_device(ctx, [&](auto stream) {
    kernels::dkd_loss(stream, args, ctx.workspace(kernels::dkd_loss_workspace(stream, args.rows)));
  });
}

}  // namespace cohort::ops
