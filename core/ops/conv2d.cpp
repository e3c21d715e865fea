#include "core/ops/conv2d.h"

#include <fmt/format.h>

#include "core/dispatch.h"
#include "kernels/conv2d.h"

namespace cohort::ops {
namespace {

using kernels::Conv2dPass;
using kernels::Conv2dShape;

Workspace workspace_for(Context& ctx, const Conv2dShape& shape, DType dtype, Conv2dPass pass, bool bias) {
  return ctx.workspace(on_device(
      ctx, [&](auto stream) { return kernels::conv2d_workspace(stream, shape, dtype, pass, bias); }));
}

struct Conv2dNode final : Node {
  Tensor x, weight, bias;
  Conv2dShape shape;

  Conv2dNode(const Tensor& y_, const Tensor& x_, const Tensor& weight_, const Tensor& bias_,
             const Conv2dShape& shape_)
      : Node("conv2d", y_), x(x_), weight(weight_), bias(bias_), shape(shape_) {}

  void backward(Context& ctx) override {
    const Tensor grad_y = ctx.grad_of(y);
    // First, so that it starts with the gradient of x and not behind it; nothing in the pass waits for it.
    ctx.aside([&] { backward_weights(ctx, grad_y); });
    if (const GradTarget target = ctx.grad_target(x)) {
      const Workspace workspace = workspace_for(ctx, shape, x.dtype, Conv2dPass::kBackwardData, false);
      on_device(ctx, [&](auto stream) {
        kernels::conv2d_backward_data(stream, {.shape = shape,
                                               .dtype = x.dtype,
                                               .grad_y = grad_y.data,
                                               .weight = weight.data,
                                               .grad_x = target.grad.data,
                                               .mode = target.mode,
                                               .workspace = workspace});
      });
    }
  }

  void backward_weights(Context& ctx, const Tensor& grad_y) const {
    const GradTarget grad_weight = ctx.grad_target(weight);
    const GradTarget grad_bias = ctx.grad_target(bias);
    if (!grad_weight && !grad_bias) return;
    const Workspace workspace =
        workspace_for(ctx, shape, x.dtype, Conv2dPass::kBackwardWeights, static_cast<bool>(grad_bias));
    on_device(ctx, [&](auto stream) {
      kernels::conv2d_backward_weights(stream, {.shape = shape,
                                                .dtype = x.dtype,
                                                .x = x.data,
                                                .grad_y = grad_y.data,
                                                .grad_weight = grad_weight.grad.data,
                                                .weight_mode = grad_weight.mode,
                                                .grad_bias = grad_bias.grad.data,
                                                .bias_mode = grad_bias.mode,
                                                .workspace = workspace});
    });
  }
};

Conv2dShape checked_shape(const Tensor& x, const Tensor& weight, const Conv2dOptions& o, const Tensor& bias) {
  const auto fail = [&] {
    internal_error(
        fmt::format("conv2d: input {} {} vs weight {} {}, bias {}, stride {}, padding {}, groups {}",
                    x.shape.to_string(), name_of(x.dtype), weight.shape.to_string(), name_of(weight.dtype),
                    bias.empty() ? "none" : bias.shape.to_string(), o.stride, o.padding, o.groups));
  };
  if (x.shape.rank() != 4 || weight.shape.rank() != 4 || x.dtype != weight.dtype || o.groups < 1 ||
      o.stride < 1 || o.dilation < 1 || o.padding < 0) {
    fail();
  }
  const Conv2dShape s{.n = x.shape[0],
                      .h = x.shape[1],
                      .w = x.shape[2],
                      .c = x.shape[3],
                      .k = weight.shape[0],
                      .kh = static_cast<int>(weight.shape[1]),
                      .kw = static_cast<int>(weight.shape[2]),
                      .stride = o.stride,
                      .padding = o.padding,
                      .dilation = o.dilation,
                      .groups = o.groups};
  if (s.c % o.groups != 0 || s.k % o.groups != 0 || weight.shape[3] != s.c / o.groups || s.out_h() < 1 ||
      s.out_w() < 1) {
    fail();
  }
  if (!bias.empty() && (bias.shape != Shape{s.k} || bias.dtype != accumulator_of(x.dtype))) fail();
  return s;
}

}  // namespace

Tensor conv2d(Context& ctx, const Tensor& x, const Tensor& weight, const Conv2dOptions& options,
              const Tensor& bias) {
  const Conv2dShape shape = checked_shape(x, weight, options, bias);
  const Tensor y = ctx.variable({shape.n, shape.out_h(), shape.out_w(), shape.k}, x.dtype);
  const Workspace workspace = workspace_for(ctx, shape, x.dtype, Conv2dPass::kForward, !bias.empty());
  on_device(ctx, [&](auto stream) {
    kernels::conv2d_forward(stream, {.shape = shape,
                                     .dtype = x.dtype,
                                     .x = x.data,
                                     .weight = weight.data,
                                     .bias = bias.data,
                                     .y = y.data,
                                     .workspace = workspace});
  });
  if (ctx.recording()) ctx.push(Conv2dNode(y, x, weight, bias, shape));
  return y;
}

}  // namespace cohort::ops
