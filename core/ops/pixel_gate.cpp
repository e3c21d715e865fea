#include "core/ops/pixel_gate.h"

#include "core/dispatch.h"
#include "kernels/pixel_gate.h"

namespace cohort::ops {
namespace {

struct PixelGateNode final : Node {
  Tensor x, scores;

  PixelGateNode(const Tensor& y_, const Tensor& x_, const Tensor& scores_)
      : Node("pixel_gate", y_), x(x_), scores(scores_) {}

  void backward(Context& ctx) override {
    const Tensor grad_y = ctx.grad_of(y);
    const GradTarget grad_x = ctx.grad_target(x), grad_scores = ctx.grad_target(scores);
    if (!grad_x && !grad_scores) return;
    on_device(ctx, [&](auto stream) {
      kernels::pixel_gate_backward(stream, {.dtype = x.dtype,
                                            .positions = scores.count(),
                                            .channels = x.shape[3],
                                            .x = x.data,
                                            .scores = scores.data,
                                            .grad_y = grad_y.data,
                                            .grad_x = grad_x.grad.data,
                                            .grad_x_mode = grad_x.mode,
                                            .grad_scores = grad_scores.grad.data,
                                            .grad_scores_mode = grad_scores.mode});
    });
  }
};

}  // namespace

Tensor pixel_gate(Context& ctx, const Tensor& x, const Tensor& scores) {
  const Shape& s = x.shape;
  if (s.rank() != 4 || scores.shape != Shape{s[0], s[1], s[2], 1} || scores.dtype != x.dtype) {
    internal_error("pixel_gate: scores " + scores.shape.to_string() + " " + name_of(scores.dtype) +
                   " for x " + s.to_string() + " " + name_of(x.dtype));
  }
  const Tensor y = ctx.variable(s, x.dtype);
  on_device(ctx, [&](auto stream) {
    kernels::pixel_gate(stream, {.dtype = x.dtype,
                                 .positions = scores.count(),
                                 .channels = s[3],
                                 .x = x.data,
                                 .scores = scores.data,
                                 .y = y.data});
  });
  if (ctx.recording()) ctx.push(PixelGateNode(y, x, scores));
  return y;
}

}  // namespace cohort::ops
