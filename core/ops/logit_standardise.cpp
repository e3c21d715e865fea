#include "core/ops/logit_standardise.h"

#include "core/dispatch.h"

namespace cohort::ops {
namespace {

struct LogitStandardiseNode final : Node {
  Tensor logits;
  LogitStandardiseOptions options;

  LogitStandardiseNode(const Tensor& y_, const Tensor& logits_, const LogitStandardiseOptions& options_)
      : Node("logit_standardise", y_), logits(logits_), options(options_) {}

  void backward(Context& ctx) override {
    const Tensor grad_y = ctx.grad_of(y);
    const GradTarget target = ctx.grad_target(logits);
    if (!target) return;
    on_device(ctx, [&](auto stream) {
      kernels::logit_standardise_backward(stream, {.dtype = logits.dtype,
                                                   .rows = logits.shape[0],
                                                   .classes = logits.shape[1],
                                                   .factor = options.factor,
                                                   .epsilon = options.epsilon,
                                                   .logits = logits.data,
                                                   .grad_standardised = grad_y.data,
                                                   .grad_logits = target.grad.data,
                                                   .mode = target.mode});
    });
  }
};

}  // namespace

Tensor logit_standardise(Context& ctx, const Tensor& logits, const LogitStandardiseOptions& options) {
  if (logits.shape.rank() != 2)
    internal_error("logit_standardise: logits " + logits.shape.to_string() + " are not (rows, classes)");
  const Tensor y = ctx.variable(logits.shape, logits.dtype);
  on_device(ctx, [&](auto stream) {
    kernels::logit_standardise(stream, {.dtype = logits.dtype,
                                        .rows = logits.shape[0],
                                        .classes = logits.shape[1],
                                        .factor = options.factor,
                                        .epsilon = options.epsilon,
                                        .logits = logits.data,
                                        .standardised = y.data});
  });
  if (ctx.recording()) ctx.push(LogitStandardiseNode(y, logits, options));
  return y;
}

}  // namespace cohort::ops
