#include "core/ops/conv2d_transpose.h"

#include <fmt/format.h>

#include "core/dispatch.h"
#include "kernels/conv2d.h"
#include "kernels/pointwise.h"

namespace cohort::ops {
namespace {

using kernels::Conv2dPass;
using kernels::Conv2dShape;

Workspace workspace_for(Context& ctx, const Conv2dShape& shape, DType dtype, Conv2dPass pass) {
  return ctx.workspace(on_device(ctx, [&](auto stream) {
    return kernels::conv2d_workspace(stream, shape, dtype, pass, /*bias=*/false);
  }));
}

// `shape` is that of the convolution whose gradient this is: its input is our result.
struct Conv2dTransposeNode final : Node {
  Tensor x, weight;
  Conv2dShape shape;

  Conv2dTransposeNode(const Tensor& y_, const Tensor& x_, const Tensor& weight_, const Conv2dShape& shape_)
      : Node("conv2d_transpose", y_), x(x_), weight(weight_), shape(shape_) {}

  void backward(Context& ctx) override {
    const Tensor grad_y = ctx.grad_of(y);
    ctx.aside([&] { backward_weights(ctx, grad_y); });
    const GradTarget target = ctx.grad_target(x);
    if (!target) return;
    // The forward convolution overwrites.
    const bool adds = target.mode == GradMode::kAccumulate;
    const Tensor result = adds ? ctx.empty(x.shape, x.dtype) : target.grad;
    const Workspace workspace = workspace_for(ctx, shape, x.dtype, Conv2dPass::kForward);
    on_device(ctx, [&](auto stream) {
      kernels::conv2d_forward(stream, {.shape = shape,
                                       .dtype = x.dtype,
                                       .x = grad_y.data,
                                       .weight = weight.data,
                                       .y = result.data,
                                       .workspace = workspace});
      if (adds) {
        kernels::scale(stream, {.dtype = x.dtype,
                                .count = x.count(),
                                .x = result.data,
                                .y = target.grad.data,
                                .mode = GradMode::kAccumulate});
      }
    });
  }

  void backward_weights(Context& ctx, const Tensor& grad_y) const {
    const GradTarget target = ctx.grad_target(weight);
    if (!target) return;
    const Workspace workspace = workspace_for(ctx, shape, x.dtype, Conv2dPass::kBackwardWeights);
    on_device(ctx, [&](auto stream) {
      kernels::conv2d_backward_weights(stream, {.shape = shape,
                                                .dtype = x.dtype,
                                                .x = grad_y.data,
                                                .grad_y = x.data,
                                                .grad_weight = target.grad.data,
                                                .weight_mode = target.mode,
                                                .workspace = workspace});
    });
  }
};

Conv2dShape checked_shape(const Tensor& x, const Tensor& weight, const Conv2dTransposeOptions& o) {
  const bool fits = x.shape.rank() == 4 && weight.shape.rank() == 4 && x.dtype == weight.dtype &&
                    x.shape[3] == weight.shape[0] && o.stride >= 1 && o.padding >= 0;
  Conv2dShape s;
  if (fits) {
    const auto out = [&](int side) {
      return (x.shape[side] - 1) * o.stride - 2 * std::int64_t{o.padding} + weight.shape[side];
    };
    s = {.n = x.shape[0],
         .h = out(1),
         .w = out(2),
         .c = weight.shape[3],
         .k = weight.shape[0],
         .kh = static_cast<int>(weight.shape[1]),
         .kw = static_cast<int>(weight.shape[2]),
         .stride = o.stride,
         .padding = o.padding};
  }
  if (!fits || s.h < 1 || s.w < 1) {
    internal_error(fmt::format("conv2d_transpose: input {} {} vs weight {} {}, stride {}, padding {}",
                               x.shape.to_string(), name_of(x.dtype), weight.shape.to_string(),
                               name_of(weight.dtype), o.stride, o.padding));
  }
  return s;
}

}  // namespace

Tensor conv2d_transpose(Context& ctx, const Tensor& x, const Tensor& weight,
                        const Conv2dTransposeOptions& options) {
  const Conv2dShape shape = checked_shape(x, weight, options);
  const Tensor y = ctx.variable({shape.n, shape.h, shape.w, shape.c}, x.dtype);
  const Workspace workspace = workspace_for(ctx, shape, x.dtype, Conv2dPass::kBackwardData);
  on_device(ctx, [&](auto stream) {
    kernels::conv2d_backward_data(stream, {.shape = shape,
                                           .dtype = x.dtype,
                                           .grad_y = x.data,
                                           .weight = weight.data,
                                           .grad_x = y.data,
                                           .workspace = workspace});
  });
  if (ctx.recording()) ctx.push(Conv2dTransposeNode(y, x, weight, shape));
  return y;
}

}  // namespace cohort::ops
