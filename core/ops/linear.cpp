#include "core/ops/linear.h"

#include <fmt/format.h>

#include "core/dispatch.h"
#include "core/ops/matmul.h"

namespace cohort::ops {
namespace {

struct LinearNode final : Node {
  Tensor x, weight, bias;

  LinearNode(const Tensor& y_, const Tensor& x_, const Tensor& weight_, const Tensor& bias_)
      : Node("linear", y_), x(x_), weight(weight_), bias(bias_) {}

  void backward(Context& ctx) override {
    const Tensor grad_y = ctx.grad_of(y);
    const std::int64_t n = x.shape[0];
    const std::int64_t c = x.shape[1];
    const std::int64_t k = weight.shape[0];
    if (const GradTarget target = ctx.grad_target(x)) {
      matmul(ctx, {.shape = {.m = n, .n = c, .k = k},
                   .a_dtype = grad_y.dtype,
                   .b_dtype = weight.dtype,
                   .c_dtype = target.grad.dtype,
                   .a = grad_y.data,
                   .b = weight.data,
                   .c = target.grad.data,
                   .mode = target.mode});
    }
    if (const GradTarget target = ctx.grad_target(weight)) {
      matmul(ctx, {.shape = {.m = k, .n = c, .k = n, .transpose_a = true},
                   .a_dtype = grad_y.dtype,
                   .b_dtype = x.dtype,
                   .c_dtype = target.grad.dtype,
                   .a = grad_y.data,
                   .b = x.data,
                   .c = target.grad.data,
                   .mode = target.mode});
    }
    if (const GradTarget target = ctx.grad_target(bias)) {
      kernels::ColumnSumArgs args{.rows = n,
                                  .columns = k,
                                  .dtype = grad_y.dtype,
                                  .x = grad_y.data,
                                  .sums = target.grad.data,
                                  .mode = target.mode};
      args.workspace = ctx.workspace(
          on_device(ctx, [&](auto stream) { return kernels::column_sum_workspace(stream, args); }));
      on_device(ctx, [&](auto stream) { kernels::column_sum(stream, args); });
    }
  }
};

}  // namespace

Tensor linear(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const bool fits =
      x.shape.rank() == 2 && weight.shape.rank() == 2 && x.shape[1] == weight.shape[1] &&
      x.dtype == weight.dtype &&
      (bias.empty() || (bias.shape == Shape{weight.shape[0]} && bias.dtype == accumulator_of(x.dtype)));
  if (!fits) {
    internal_error(fmt::format("linear: input {} {} vs weight {} {}, bias {}", x.shape.to_string(),
                               name_of(x.dtype), weight.shape.to_string(), name_of(weight.dtype),
                               bias.empty() ? "none" : bias.shape.to_string()));
  }
  const Tensor y = ctx.variable({x.shape[0], weight.shape[0]}, accumulator_of(x.dtype));
  matmul(ctx, {.shape = {.m = x.shape[0], .n = weight.shape[0], .k = x.shape[1], .transpose_b = true},
               .a_dtype = x.dtype,
               .b_dtype = weight.dtype,
               .c_dtype = y.dtype,
               .a = x.data,
               .b = weight.data,
               .bias = bias.data,
               .c = y.data});
  if (ctx.recording()) ctx.push(LinearNode(y, x, weight, bias));
  return y;
}

}  // namespace cohort::ops
