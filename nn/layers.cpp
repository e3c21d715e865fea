#include "nn/layers.h"

#include <cmath>

#include "core/ops/linear.h"

namespace cohort::nn {

Conv2d::Conv2d(ParameterSet& parameters, const std::string& name, std::int64_t in, std::int64_t out,
               const Options& options)
    : name_(name), options_(options) {
  const std::int64_t window = std::int64_t{options.kernel} * options.kernel;
  const std::int64_t fan_in = window * in / options.groups;
  const std::int64_t fan = options.init == ConvInit::kKaimingFanOut ? window * out / options.groups : fan_in;
  weight_ = parameters.add(name + ".weight", {out, options.kernel, options.kernel, in / options.groups},
                           ParameterKind::kConv,
                           {Initializer::Kind::kNormal, std::sqrt(2.0 / static_cast<double>(fan))});
  if (options.bias) {
    bias_ = parameters.add(name + ".bias", {out}, ParameterKind::kVector,
                           {Initializer::Kind::kUniform, 1.0 / std::sqrt(static_cast<double>(fan_in))});
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

Linear::Linear(ParameterSet& parameters, const std::string& name, std::int64_t in, std::int64_t out,
               bool zero_bias)
    : name_(name) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(in));
  weight_ = parameters.add(name + ".weight", {out, in}, ParameterKind::kLinearWeight,
                           {Initializer::Kind::kUniform, bound});
  bias_ = parameters.add(name + ".bias", {out}, ParameterKind::kVector,
                         {Initializer::Kind::kUniform, zero_bias ? 0.0 : bound});
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
