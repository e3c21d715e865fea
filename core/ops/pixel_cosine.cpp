#include "core/ops/pixel_cosine.h"

#include "core/dispatch.h"
#include "kernels/pixel_cosine.h"

namespace cohort::ops {
namespace {

struct PixelCosineNode final : Node {
  Tensor a, b;  // (N, H, W, C)

  PixelCosineNode(const Tensor& result, const Tensor& first, const Tensor& second)
      : Node("pixel_cosine", result), a(first), b(second) {}

  void backward(Context& ctx) override {
    const Tensor grad = ctx.grad_of(y);
    const GradTarget grad_a = ctx.grad_target(a);
    const GradTarget grad_b = ctx.grad_target(b);
    const std::int64_t channels = a.shape[3];
    const kernels::PixelCosineBackwardArgs args{.dtype = a.dtype,
                                                .positions = y.count(),
                                                .channels = channels,
                                                .a = a.data,
                                                .b = b.data,
                                                .grad_similarity = grad.data,
                                                .grad_a = grad_a.grad.data,
                                                .grad_a_mode = grad_a.mode,
                                                .grad_b = grad_b.grad.data,
                                                .grad_b_mode = grad_b.mode};
    on_device(ctx, [&](auto stream) { kernels::pixel_cosine_backward(stream, args); });
  }
};

}  // namespace

Tensor pixel_cosine(Context& ctx, const Tensor& a, const Tensor& b) {
  if (a.shape.rank() != 4 || a.shape != b.shape || a.dtype != b.dtype) {
    internal_error("pixel_cosine: a " + a.shape.to_string() + " " + name_of(a.dtype) + " vs b " +
                   b.shape.to_string() + " " + name_of(b.dtype));
  }
  const bool differentiable = a.grad != nullptr || b.grad != nullptr;
  const Shape shape{a.shape[0], a.shape[1], a.shape[2]};
  const DType dtype = accumulator_of(a.dtype);
  const Tensor y = differentiable ? ctx.variable(shape, dtype) : ctx.empty(shape, dtype);
  const kernels::PixelCosineArgs args{.dtype = a.dtype,
                                      .positions = y.count(),
                                      .channels = a.shape[3],
                                      .a = a.data,
                                      .b = b.data,
                                      .similarity = y.data};
  on_device(ctx, [&](auto stream) { kernels::pixel_cosine(stream, args); });
  if (ctx.recording() && differentiable) ctx.push(PixelCosineNode(y, a, b));
  return y;
}

}  // namespace cohort::ops
