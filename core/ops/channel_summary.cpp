#include "core/ops/channel_summary.h"

#include "core/dispatch.h"
#include "kernels/channel_summary.h"

namespace cohort::ops {
namespace {

struct ChannelSummaryNode final : Node {
  Tensor x, scores, gate, argmax;
  kernels::ChannelSummaryShape shape;

  ChannelSummaryNode(const Tensor& y_, const Tensor& x_, const Tensor& scores_, const Tensor& gate_,
                     const Tensor& argmax_, const kernels::ChannelSummaryShape& shape_)
      : Node("channel_summary", y_), x(x_), scores(scores_), gate(gate_), argmax(argmax_), shape(shape_) {}

  void backward(Context& ctx) override {
    const Tensor grad_y = ctx.grad_of(y);
    const GradTarget grad_x = ctx.grad_target(x), grad_scores = ctx.grad_target(scores);
    if (!grad_x && !grad_scores) return;
    on_device(ctx, [&](auto stream) {
      kernels::channel_summary_backward(stream, {.dtype = x.dtype,
                                                 .shape = shape,
                                                 .x = x.data,
                                                 .gate = gate.data,
                                                 .argmax = argmax.as<std::int32_t>(),
                                                 .grad_summary = grad_y.data,
                                                 .grad_x = grad_x.grad.data,
                                                 .grad_x_mode = grad_x.mode,
                                                 .grad_scores = grad_scores.grad.data,
                                                 .grad_scores_mode = grad_scores.mode});
    });
  }
};

}  // namespace

Tensor channel_summary(Context& ctx, const Tensor& x, const Tensor& scores) {
  if (x.shape.rank() != 4 || x.count() == 0 || scores.count() != x.shape[0] * x.shape[3] ||
      scores.dtype != x.dtype) {
    internal_error("channel_summary: scores " + scores.shape.to_string() + " " + name_of(scores.dtype) +
                   " for x " + x.shape.to_string() + " " + name_of(x.dtype));
  }
  const kernels::ChannelSummaryShape shape{
      .samples = x.shape[0], .positions = x.shape[1] * x.shape[2], .channels = x.shape[3]};
  const Tensor y = ctx.variable({x.shape[0], x.shape[1], x.shape[2], 2}, x.dtype);
  const Tensor gate = ctx.empty({shape.samples, shape.channels}, accumulator_of(x.dtype));
  const Tensor argmax = ctx.empty({shape.samples, shape.positions}, DType::i32);
  on_device(ctx, [&](auto stream) {
    kernels::channel_summary(stream, {.dtype = x.dtype,
                                      .shape = shape,
                                      .x = x.data,
                                      .scores = scores.data,
                                      .gate = gate.data,
                                      .summary = y.data,
                                      .argmax = argmax.as<std::int32_t>()});
  });
  if (ctx.recording()) ctx.push(ChannelSummaryNode(y, x, scores, gate, argmax, shape));
  return y;
}

}  // namespace cohort::ops
