// Fully connected layer as a differentiable operation.
#pragma once

#include "core/context.h"

namespace cohort::ops {

// y = x weight^T + bias: x (N,C), weight (K,C) of the same dtype, bias (K) of accumulator_of(dtype) or empty.
// The result (N,K) has accumulator_of(dtype): logits are f32 also where activations are bf16.
Tensor linear(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& bias = {});

}  // namespace cohort::ops
