#include "core/ops/attention_reweight.h"

#include "core/dispatch.h"
#include "kernels/attention_reweight.h"

namespace cohort::ops {
namespace {

struct AttentionPoolNode final : Node {
  Tensor features;  // (N, H, W, C)
  Tensor weights;   // (N, H, W)
  bool relu;

  AttentionPoolNode(const Tensor& result, const Tensor& f, const Tensor& w, bool with_relu)
      : Node("attention_pool", result), features(f), weights(w), relu(with_relu) {}

  void backward(Context& ctx) override {
    const Tensor grad = ctx.grad_of(y);
    const GradTarget target = ctx.grad_target(features);
    if (!target) return;
    const kernels::AttentionPoolBackwardArgs args{.dtype = features.dtype,
                                                  .samples = features.shape[0],
                                                  .positions = features.shape[1] * features.shape[2],
                                                  .channels = features.shape[3],
                                                  .relu = relu,
                                                  .features = features.data,
                                                  .weights = weights.data,
                                                  .grad_pooled = grad.data,
                                                  .grad_features = target.grad.data,
                                                  .grad_mode = target.mode};
    on_device(ctx, [&](auto stream) { kernels::attention_pool_backward(stream, args); });
  }
};

}  // namespace

AttentionMaps attention_weights(Context& ctx, const Tensor& similarity) {
  if (similarity.shape.rank() != 3) {
    internal_error("attention_weights: similarity " + similarity.shape.to_string() + " is not (N, H, W)");
  }
  const AttentionMaps maps{ctx.empty(similarity.shape, similarity.dtype),
                           ctx.empty(similarity.shape, similarity.dtype)};
  const kernels::AttentionWeightsArgs args{.dtype = similarity.dtype,
                                           .samples = similarity.shape[0],
                                           .positions = similarity.shape[1] * similarity.shape[2],
                                           .similarity = similarity.data,
                                           .co = maps.co.data,
                                           .di = maps.di.data};
  on_device(ctx, [&](auto stream) { kernels::attention_weights(stream, args); });
  return maps;
}

Tensor attention_pool(Context& ctx, const Tensor& features, const Tensor& weights, bool relu) {
  const Shape& f = features.shape;
  if (f.rank() != 4 || weights.shape != Shape{f[0], f[1], f[2]} ||
      weights.dtype != accumulator_of(features.dtype)) {
    internal_error("attention_pool: features " + f.to_string() + " " + name_of(features.dtype) +
                   " vs weights " + weights.shape.to_string() + " " + name_of(weights.dtype));
  }
  const bool differentiable = features.grad != nullptr;
  const Shape shape{f[0], f[3]};
  const Tensor y = differentiable ? ctx.variable(shape, features.dtype) : ctx.empty(shape, features.dtype);
  const kernels::AttentionPoolArgs args{.dtype = features.dtype,
                                        .samples = f[0],
                                        .positions = f[1] * f[2],
                                        .channels = f[3],
                                        .relu = relu,
                                        .features = features.data,
                                        .weights = weights.data,
                                        .pooled = y.data};
  on_device(ctx, [&](auto stream) { kernels::attention_pool(stream, args); });
  if (ctx.recording() && differentiable) ctx.push(AttentionPoolNode(y, features, weights, relu));
  return y;
}

}  // namespace cohort::ops
