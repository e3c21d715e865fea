// Batch normalisation, with the residual addition and the ReLU that follow it, as one differentiable
// operation (kernels/batch_norm.h has the formula).
#pragma once

#include "core/context.h"

namespace cohort::ops {

// All of shape (C) in accumulator_of(x.dtype).
struct BatchNormParameters {
  Tensor gamma, beta;                // empty: ones, zeros
  Tensor running_mean, running_var;  // updated by every training call; empty in training: left alone
};

struct BatchNormOptions {
  double eps = 1e-5;
  double momentum = 0.1;  // weight of the new value
  bool training = true;   // false: the running statistics normalise, and are constants of the backward pass
  bool relu = false;
};

// relu?(bn(x) + residual?); x (N,H,W,C) or (N,C), residual and the result like x. Of the N images only the
// first ctx.valid_images() count, where that is set: the others' results and gradients are 0.
Tensor batch_norm(Context& ctx, const Tensor& x, const BatchNormParameters& parameters,
                  const BatchNormOptions& options = {}, const Tensor& residual = {});

}  // namespace cohort::ops
