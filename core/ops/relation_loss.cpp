#include "core/ops/relation_loss.h"

#include "core/dispatch.h"
#include "core/ops/matmul.h"

namespace cohort::ops {
namespace {

// F F' of the flattened map, in accumulator dtype.
Tensor gram(Context& ctx, const Tensor& map) {
  const std::int64_t rows = map.shape[0];
  const Tensor g = ctx.empty({rows, rows}, accumulator_of(map.dtype));
  matmul(ctx, {.shape = {.m = rows, .n = rows, .k = map.count() / rows, .transpose_b = true},
               .a_dtype = map.dtype,
               .b_dtype = map.dtype,
               .c_dtype = g.dtype,
               .a = map.data,
               .b = map.data,
               .c = g.data});
  return g;
}

}  // namespace

Tensor relation_loss(Context& ctx, const RelationLossInputs& in) {
  const DType a = accumulator_of(in.student.dtype);
  check(in.student.shape.rank() >= 2 && in.teacher.shape.rank() >= 2 &&
            in.student.shape[0] == in.teacher.shape[0] && in.student.shape[0] > 0,
        "relation_loss: maps of the same samples");
  check(in.weight.count() == 1 && in.weight.dtype == a, "relation_loss: weight is one number");
  check(in.loss.empty() || (in.loss.count() == 1 && in.loss.dtype == a), "relation_loss: loss is one number");
  const std::int64_t rows = in.student.shape[0];
  const Tensor student = gram(ctx, in.student), teacher = gram(ctx, in.teacher);
  const Tensor value = ctx.empty({}, a);
  const GradTarget target = ctx.grad_target(in.student);
  const Tensor grad = target ? ctx.empty({rows, rows}, a) : Tensor{};
  const kernels::RelationLossArgs args{.dtype = a,
                                       .rows = rows,
                                       .student = student.data,
                                       .teacher = teacher.data,
                                       .weight = in.weight.data,
                                       .valid_rows = static_cast<const std::int32_t*>(in.valid_rows.data),
                                       .grad_student = grad.data,
                                       .value = value.data,
                                       .loss = in.loss.data};
  on_device(ctx, [&](auto stream) {
    kernels::relation_loss(stream, args, ctx.workspace(kernels::relation_loss_workspace(stream, rows)));
  });
  if (!target) return value;
  // The Gram matrix holds the map twice.
  for (const bool transpose : {false, true}) {
    matmul(ctx, {.shape = {.m = rows, .n = in.student.count() / rows, .k = rows, .transpose_a = transpose},
                 .a_dtype = a,
                 .b_dtype = in.student.dtype,
                 .c_dtype = target.grad.dtype,
                 .a = grad.data,
                 .b = in.student.data,
                 .c = target.grad.data,
                 .mode = transpose ? GradMode::kAccumulate : target.mode});
  }
  return value;
}

}  // namespace cohort::ops
