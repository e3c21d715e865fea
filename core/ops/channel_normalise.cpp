#include "core/ops/channel_normalise.h"

#include "core/dispatch.h"

namespace cohort::ops {
namespace {

struct ChannelNormaliseNode final : Node {
  Tensor x;

  ChannelNormaliseNode(const Tensor& y_, const Tensor& x_) : Node("channel_normalise", y_), x(x_) {}

  void backward(Context& ctx) override {
    const Tensor grad_y = ctx.grad_of(y);
    const GradTarget target = ctx.grad_target(x);
    if (!target) return;
    const kernels::ChannelNormaliseBackwardArgs args{.dtype = x.dtype,
                                                     .samples = x.shape[0],
                                                     .positions = x.shape[1] * x.shape[2],
                                                     .channels = x.shape[3],
                                                     .x = x.data,
                                                     .grad_y = grad_y.data,
                                                     .grad_x = target.grad.data,
                                                     .mode = target.mode};
    on_device(ctx, [&](auto stream) {
      kernels::channel_normalise_backward(
          stream, args,
          ctx.workspace(kernels::channel_normalise_workspace(stream, args.dtype, args.channels)));
    });
  }
};

}  // namespace

Tensor channel_normalise(Context& ctx, const Tensor& x) {
  if (x.shape.rank() != 4) internal_error("channel_normalise: " + x.shape.to_string() + " is no map");
  const bool differentiable = ctx.recording() && x.grad != nullptr;
  const Tensor y = differentiable ? ctx.variable(x.shape, x.dtype) : ctx.empty(x.shape, x.dtype);
  const kernels::ChannelNormaliseArgs args{.dtype = x.dtype,
                                           .samples = x.shape[0],
                                           .positions = x.shape[1] * x.shape[2],
                                           .channels = x.shape[3],
                                           .x = x.data,
                                           .y = y.data};
  on_device(ctx, [&](auto stream) {
    kernels::channel_normalise(
        stream, args, ctx.workspace(kernels::channel_normalise_workspace(stream, args.dtype, args.channels)));
  });
  if (differentiable) ctx.push(ChannelNormaliseNode(y, x));
  return y;
}

}  // namespace cohort::ops
