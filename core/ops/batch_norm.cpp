#include "core/ops/batch_norm.h"

#include <fmt/format.h>

#include "core/dispatch.h"
#include "kernels/batch_norm.h"

namespace cohort::ops {
namespace {

struct BatchNormNode final : Node {
  Tensor x, gamma, beta, residual, mean, invstd, mask, valid_images;
  kernels::BatchNormShape shape;
  BatchNormOptions options;

  BatchNormNode(const Tensor& y_, const Tensor& x_, const BatchNormParameters& parameters,
                const Tensor& residual_, const Tensor& mean_, const Tensor& invstd_, const Tensor& mask_,
                const Tensor& valid_images_, const kernels::BatchNormShape& shape_,
                const BatchNormOptions& options_)
      : Node("batch_norm", y_),
        x(x_),
        gamma(parameters.gamma),
        beta(parameters.beta),
        residual(residual_),
        mean(mean_),
        invstd(invstd_),
        mask(mask_),
        valid_images(valid_images_),
        shape(shape_),
        options(options_) {}

  void backward(Context& ctx) override {
    const Tensor grad_y = ctx.grad_of(y);
    // The residual's gradient is grad_y behind the ReLU: it takes over the buffer, masked in place. Where it
    // cannot, grad_x does: the kernel reads an element before it writes it. The residual comes first, so that
    // grad_x is added to it where both are the same tensor.
    GradTarget grad_residual;
    const bool residual_took_over = residual.grad != nullptr && ctx.hand_over_grad(y, residual);
    if (!residual_took_over) {
      grad_residual = ctx.grad_target(residual);
    } else if (options.relu || !valid_images.empty()) {  // what is padding in grad_y is cleared, too
      grad_residual = {grad_y, GradMode::kOverwrite};
    }
    const bool x_took_over = x.grad != nullptr && !residual_took_over && ctx.hand_over_grad(y, x);
    const GradTarget grad_x = x_took_over ? GradTarget{grad_y, GradMode::kOverwrite} : ctx.grad_target(x);
    const GradTarget grad_gamma = ctx.grad_target(gamma);
    const GradTarget grad_beta = ctx.grad_target(beta);
    const Workspace workspace = ctx.workspace(kernels::batch_norm_workspace(shape));
    on_device(ctx, [&](auto stream) {
      kernels::batch_norm_backward(stream,
                                   {.dtype = x.dtype,
                                    .shape = shape,
                                    .valid_images = static_cast<const std::int32_t*>(valid_images.data),
                                    .rows_per_image = shape.rows / x.shape[0],
                                    .x = x.data,
                                    .y = y.data,
                                    .mask = static_cast<const std::uint8_t*>(mask.data),
                                    .grad_y = grad_y.data,
                                    .gamma = gamma.data,
                                    .mean = mean.data,
                                    .invstd = invstd.data,
                                    .grad_x = grad_x.grad.data,
                                    .grad_x_mode = grad_x.mode,
                                    .grad_residual = grad_residual.grad.data,
                                    .grad_residual_mode = grad_residual.mode,
                                    .grad_gamma = grad_gamma.grad.data,
                                    .grad_gamma_mode = grad_gamma.mode,
                                    .grad_beta = grad_beta.grad.data,
                                    .grad_beta_mode = grad_beta.mode,
                                    .training = options.training,
                                    .relu = options.relu,
                                    .workspace = workspace});
    });
  }
};

kernels::BatchNormShape checked_shape(const Tensor& x, const BatchNormParameters& p,
                                      const BatchNormOptions& options, const Tensor& residual,
                                      const Tensor& valid_images) {
  const auto refuse = [&](const char* name, const Tensor& t) {
    internal_error(fmt::format("batch_norm: {} {} {} vs input {} {}", name, t.shape.to_string(),
                               name_of(t.dtype), x.shape.to_string(), name_of(x.dtype)));
  };
  if (x.shape.rank() < 2 || x.shape.count() == 0) refuse("input", x);
  if (!valid_images.empty() && (valid_images.shape.count() != 1 || valid_images.dtype != DType::i32))
    refuse("valid_images", valid_images);
  const std::int64_t channels = x.shape[x.shape.rank() - 1];
  const auto check_vector = [&](const char* name, const Tensor& t, bool required) {
    if (t.empty() && !required) return;
    if (t.empty() || t.shape != Shape{channels} || t.dtype != accumulator_of(x.dtype)) refuse(name, t);
  };
  check_vector("gamma", p.gamma, false);
  check_vector("beta", p.beta, false);
  check_vector("running_mean", p.running_mean, !options.training);
  check_vector("running_var", p.running_var, !options.training);
  if (!residual.empty() && (residual.shape != x.shape || residual.dtype != x.dtype))
    refuse("residual", residual);
  return {x.shape.count() / channels, channels};
}

// Empty where the device keeps no mask.
Tensor mask_for(Context& ctx, DType dtype, const kernels::BatchNormShape& shape) {
  const std::size_t bytes =
      on_device(ctx, [&](auto stream) { return kernels::batch_norm_mask_bytes(stream, dtype, shape); });
  return bytes == 0 ? Tensor{} : ctx.empty({static_cast<std::int64_t>(bytes)}, DType::u8);
}

}  // namespace

Tensor batch_norm(Context& ctx, const Tensor& x, const BatchNormParameters& parameters,
                  const BatchNormOptions& options, const Tensor& residual) {
  const Tensor& valid_images = ctx.valid_images();
  const kernels::BatchNormShape shape = checked_shape(x, parameters, options, residual, valid_images);
  const Tensor y = ctx.variable(x.shape, x.dtype);
  const Tensor mean = ctx.empty({shape.channels}, accumulator_of(x.dtype));
  const Tensor invstd = ctx.empty({shape.channels}, accumulator_of(x.dtype));
  const Tensor mask = options.relu && ctx.recording() ? mask_for(ctx, x.dtype, shape) : Tensor{};
  const Workspace workspace = ctx.workspace(kernels::batch_norm_workspace(shape));
  on_device(ctx, [&](auto stream) {
    kernels::batch_norm_forward(stream, {.dtype = x.dtype,
                                         .shape = shape,
                                         .valid_images = static_cast<const std::int32_t*>(valid_images.data),
                                         .rows_per_image = shape.rows / x.shape[0],
                                         .x = x.data,
                                         .residual = residual.data,
                                         .gamma = parameters.gamma.data,
                                         .beta = parameters.beta.data,
                                         .running_mean = parameters.running_mean.data,
                                         .running_var = parameters.running_var.data,
                                         .mean = mean.data,
                                         .invstd = invstd.data,
                                         .y = y.data,
                                         .mask = static_cast<std::uint8_t*>(mask.data),
                                         .eps = options.eps,
                                         .momentum = options.momentum,
                                         .training = options.training,
                                         .relu = options.relu,
                                         .workspace = workspace});
  });
  if (ctx.recording()) {
    ctx.push(BatchNormNode(y, x, parameters, residual, mean, invstd, mask, valid_images, shape, options));
  }
  return y;
}

}  // namespace cohort::ops
