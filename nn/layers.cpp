#include "nn/layers.h"

#include <cmath>

#include "core/ops/linear.h"
#include "core/ops/pointwise.h"

namespace cohort::nn {

Conv2d::Conv2d(ParameterSet& parameters, const std::string& name, std::int64_t in, std::int64_t out,
               const Options& options)
    : name_(name), options_(options) {
  const std::int64_t window = std::int64_t{options.kernel} * options.kernel;
  const std::int64_t fan_in = window * in / options.groups;
  const std::int64_t fan = options.init == ConvInit::kKaimingFanOut ? window * out : fan_in;
  const Initializer uniform{Initializer::Kind::kUniform, 1.0 / std::sqrt(static_cast<double>(fan_in))};
  const Initializer normal{Initializer::Kind::kNormal, std::sqrt(2.0 / static_cast<double>(fan))};
  weight_ = parameters.add(name + ".weight", {out, options.kernel, options.kernel, in / options.groups},
                           ParameterKind::kConv, options.init == ConvInit::kPyTorch ? uniform : normal);
  if (options.bias) {
    bias_ = parameters.add(name + ".bias", {out}, ParameterKind::kVector,
                           options.zero_bias ? Initializer{} : uniform);
  }
}

Tensor Conv2d::forward(Context& ctx, const Tensor& x) const {
  const Tensor y = ops::conv2d(ctx, x, weight_->compute,
                               {.stride = options_.stride,
                                .padding = options_.padding,
                                .dilation = options_.dilation,
                                .groups = options_.groups},
                               bias_ == nullptr ? Tensor{} : bias_->compute);
  if (ctx.layer_log() != nullptr) {
    const std::int64_t outputs = y.shape[1] * y.shape[2] * y.shape[3];
    const std::int64_t per_output = weight_->shape[1] * weight_->shape[2] * weight_->shape[3];
    ctx.layer_log()->push_back({name_,
                                "conv2d",
                                x.shape,
                                y.shape,
                                weight_->shape.count() + (bias_ == nullptr ? 0 : bias_->shape.count()),
                                outputs * per_output,
                                {.n = x.shape[0],
                                 .h = x.shape[1],
                                 .w = x.shape[2],
                                 .c = x.shape[3],
                                 .k = y.shape[3],
                                 .kh = options_.kernel,
                                 .kw = options_.kernel,
                                 .stride = options_.stride,
                                 .padding = options_.padding,
                                 .dilation = options_.dilation,
                                 .groups = options_.groups}});
  }
  return y;
}

BatchNorm2d::BatchNorm2d(ParameterSet& parameters, const std::string& name, std::int64_t channels)
    : name_(name) {
  weight_ = parameters.add(name + ".weight", {channels}, ParameterKind::kVector,
                           {Initializer::Kind::kConstant, 1.0});
  bias_ =
      parameters.add(name + ".bias", {channels}, ParameterKind::kVector, {Initializer::Kind::kConstant, 0.0});
  running_mean_ = parameters.add_buffer(name + ".running_mean", {channels}, 0.0);
  running_var_ = parameters.add_buffer(name + ".running_var", {channels}, 1.0);
}

Tensor BatchNorm2d::forward(Context& ctx, const Tensor& x, const Options& options,
                            const Tensor& residual) const {
  const Tensor y = ops::batch_norm(ctx, x,
                                   {.gamma = weight_->compute,
                                    .beta = bias_->compute,
                                    .running_mean = running_mean_->value,
                                    .running_var = running_var_->value},
                                   {.training = options.training, .relu = options.relu}, residual);
  if (ctx.layer_log() != nullptr) {
    ctx.layer_log()->push_back({name_, "batch_norm", x.shape, y.shape, 2 * weight_->shape.count(), 0});
  }
  return y;
}

Activated activate(Context& ctx, const BatchNorm2d& bn, const Tensor& x, bool training, bool keep_pre,
                   const Tensor& residual) {
  if (!keep_pre) return {{}, bn.forward(ctx, x, {.training = training, .relu = true}, residual)};
  const Tensor pre = bn.forward(ctx, x, {.training = training}, residual);
  return {pre, ops::relu(ctx, pre)};
}

Linear::Linear(ParameterSet& parameters, const std::string& name, std::int64_t in, std::int64_t out,
               LinearInit init)
    : name_(name) {
  const Initializer uniform{Initializer::Kind::kUniform, 1.0 / std::sqrt(static_cast<double>(in))};
  const Initializer normal{Initializer::Kind::kNormal, 0.01};
  weight_ = parameters.add(name + ".weight", {out, in}, ParameterKind::kLinearWeight,
                           init == LinearInit::kNormal ? normal : uniform);
  bias_ = parameters.add(name + ".bias", {out}, ParameterKind::kVector,
                         init == LinearInit::kPyTorch ? uniform : Initializer{});
}

Tensor Linear::forward(Context& ctx, const Tensor& x) const {
  const Tensor y = ops::linear(ctx, x, weight_->compute, bias_->compute);
  if (ctx.layer_log() != nullptr) {
    ctx.layer_log()->push_back({name_, "linear", x.shape, y.shape,
                                weight_->shape.count() + bias_->shape.count(), weight_->shape.count()});
  }
  return y;
}

}  // namespace cohort::nn
