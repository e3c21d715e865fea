#include "distill/discriminator.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "core/dispatch.h"
#include "core/ops/batch_norm.h"
#include "core/ops/conv2d.h"
#include "core/ops/feature_l2.h"
#include "core/ops/pointwise.h"
#include "kernels/pointwise.h"

namespace cohort::distill {
namespace {

constexpr double kSlope = 0.01;

Tensor value_of(const Parameter* p, bool learns) {
  if (p == nullptr) return {};
  return learns ? p->compute : p->compute.detached();
}

}  // namespace

Discriminator::Discriminator(ParameterSet& parameters, const Shape& map) {
  std::int64_t h = map[1], w = map[2];
  const std::int64_t channels = map[3], half = std::max<std::int64_t>(1, channels / 2);
  for (; std::max(h, w) > 4; h = (h + 1) / 2, w = (w + 1) / 2) {
    add(parameters, channels, channels, /*kernel=*/3, /*stride=*/2, /*padding=*/1, /*last=*/false);
  }
  add(parameters, channels, half, /*kernel=*/2, /*stride=*/1, /*padding=*/std::min(h, w) < 3 ? 1 : 0,
      /*last=*/false);
  add(parameters, half, 1, /*kernel=*/2, /*stride=*/2, /*padding=*/0, /*last=*/true);
}

void Discriminator::add(ParameterSet& parameters, std::int64_t in, std::int64_t out, int kernel, int stride,
                        int padding, bool last) {
  const std::string name = fmt::format("discriminator.{}.", layers_.size());
  const Initializer uniform{Initializer::Kind::kUniform,
                            1.0 / std::sqrt(static_cast<double>(in * kernel * kernel))};
  Layer layer{.weight = parameters.add(name + "conv.weight", {out, kernel, kernel, in}, ParameterKind::kConv,
                                       uniform),
              .bias = nullptr,
              .gamma = nullptr,
              .beta = nullptr,
              .stride = stride,
              .padding = padding};
  if (last) {
    layer.bias = parameters.add(name + "conv.bias", {out}, ParameterKind::kVector, uniform);
  } else {
    layer.gamma = parameters.add(name + "bn.weight", {out}, ParameterKind::kVector,
                                 {Initializer::Kind::kConstant, 1.0});
    layer.beta = parameters.add(name + "bn.bias", {out}, ParameterKind::kVector, {});
  }
  layers_.push_back(layer);
}

Tensor Discriminator::judge(Context& ctx, const Tensor& map, bool learns) const {
  Tensor x = map;
  for (const Layer& layer : layers_) {
    x = ops::conv2d(ctx, x, value_of(layer.weight, learns),
                    {.stride = layer.stride, .padding = layer.padding}, value_of(layer.bias, learns));
    if (layer.gamma == nullptr) continue;
    x = ops::batch_norm(ctx, x,
                        {.gamma = value_of(layer.gamma, learns),
                         .beta = value_of(layer.beta, learns),
                         .running_mean = {},
                         .running_var = {}});
    x = ops::leaky_relu(ctx, x, kSlope);
  }
  return ops::sigmoid(ctx, x);
}

Tensor least_squares(Context& ctx, const Tensor& verdicts, double target, const Judgement& how) {
  const Tensor targets = ctx.empty(verdicts.shape, verdicts.dtype);
  on_device(ctx, [&](auto stream) {
    kernels::fill(stream,
                  {.dtype = targets.dtype, .count = targets.count(), .y = targets.data, .value = target});
  });
  return ops::feature_l2(ctx, verdicts, targets, how.weight,
                         {.valid_rows = how.valid_rows, .loss = how.loss});
}

}  // namespace cohort::distill
