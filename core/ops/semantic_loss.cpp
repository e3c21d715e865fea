#include "core/ops/semantic_loss.h"

#include "core/dispatch.h"
#include "core/ops/matmul.h"
#include "kernels/softmax_residual.h"

namespace cohort::ops {
namespace {

struct Side {
  Tensor residual;   // (N, classes)
  Tensor semantics;  // (classes, d)
};

Side side_of(Context& ctx, const SemanticLossInputs& in, const Tensor& logits, const Tensor& features) {
  const std::int64_t rows = logits.shape[0], classes = logits.shape[1], d = features.count() / rows;
  const Side side{ctx.empty(logits.shape, logits.dtype), ctx.empty({classes, d}, logits.dtype)};
  on_device(ctx, [&](auto stream) {
    kernels::softmax_residual(stream, {.dtype = logits.dtype,
                                       .rows = rows,
                                       .classes = classes,
                                       .logits = logits.data,
                                       .labels = in.labels.as<std::int32_t>(),
                                       .valid_rows = static_cast<const std::int32_t*>(in.valid_rows.data),
                                       .residual = side.residual.data});
  });
  matmul(ctx, {.shape = {.m = classes, .n = d, .k = rows, .transpose_a = true},
               .a_dtype = logits.dtype,
               .b_dtype = features.dtype,
               .c_dtype = logits.dtype,
               .a = side.residual.data,
               .b = features.data,
               .c = side.semantics.data});
  return side;
}

// From d value / d semantics to the student's features and logits.
void back(Context& ctx, const SemanticLossInputs& in, const Side& student, const Tensor& grad) {
  const Tensor &logits = in.student_logits, &features = in.student_features;
  const std::int64_t rows = logits.shape[0], classes = logits.shape[1], d = features.count() / rows;
  if (const GradTarget target = ctx.grad_target(features)) {
    matmul(ctx, {.shape = {.m = rows, .n = d, .k = classes},
                 .a_dtype = logits.dtype,
                 .b_dtype = grad.dtype,
                 .c_dtype = target.grad.dtype,
                 .a = student.residual.data,
                 .b = grad.data,
                 .c = target.grad.data,
                 .mode = target.mode});
  }
  if (const GradTarget target = ctx.grad_target(logits)) {
    const Tensor grad_residual = ctx.empty(logits.shape, logits.dtype);
    matmul(ctx, {.shape = {.m = rows, .n = classes, .k = d, .transpose_b = true},
                 .a_dtype = features.dtype,
                 .b_dtype = grad.dtype,
                 .c_dtype = logits.dtype,
                 .a = features.data,
                 .b = grad.data,
                 .c = grad_residual.data});
    on_device(ctx, [&](auto stream) {
      kernels::softmax_residual_backward(stream,
                                         {.dtype = logits.dtype,
                                          .rows = rows,
                                          .classes = classes,
                                          .logits = logits.data,
                                          .valid_rows = static_cast<const std::int32_t*>(in.valid_rows.data),
                                          .grad_residual = grad_residual.data,
                                          .grad_logits = target.grad.data,
                                          .mode = target.mode});
    });
  }
}

}  // namespace

Tensor semantic_loss(Context& ctx, const SemanticLossInputs& in) {
  const Shape& shape = in.student_logits.shape;
  check(shape.rank() == 2 && shape[0] > 0 && in.teacher_logits.shape == shape,
        "semantic_loss: logits are (rows, classes) of one shape");
  const DType a = in.student_logits.dtype;
  check(a == accumulator_of(in.student_features.dtype) && in.teacher_logits.dtype == a,
        "semantic_loss: logits of accumulator dtype");
  check(in.student_features.shape[0] == shape[0] && in.teacher_features.shape[0] == shape[0] &&
            in.student_features.count() == in.teacher_features.count(),
        "semantic_loss: features of one size");
  check(in.weight.count() == 1 && in.weight.dtype == a, "semantic_loss: weight is one number");
  const Side student = side_of(ctx, in, in.student_logits, in.student_features);
  const Side teacher = side_of(ctx, in, in.teacher_logits, in.teacher_features);
  const Tensor value = ctx.empty({}, a);
  const bool learns = in.student_logits.grad != nullptr || in.student_features.grad != nullptr;
  const Tensor grad = learns ? ctx.empty(student.semantics.shape, a) : Tensor{};
  const std::int64_t classes = shape[1];
  const kernels::SemanticLossArgs args{.dtype = a,
                                       .classes = classes,
                                       .channels = student.semantics.shape[1],
                                       .student = student.semantics.data,
                                       .teacher = teacher.semantics.data,
                                       .weight = in.weight.data,
                                       .grad_student = grad.data,
                                       .value = value.data,
                                       .loss = in.loss.data};
  on_device(ctx, [&](auto stream) {
    kernels::semantic_loss(stream, args, ctx.workspace(kernels::semantic_loss_workspace(stream, classes)));
  });
  if (learns) back(ctx, in, student, grad);
  return value;
}

}  // namespace cohort::ops
