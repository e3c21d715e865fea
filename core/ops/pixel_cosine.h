// Cosine similarity of two NHWC maps at every position (formula: kernels/pixel_cosine.h).
#pragma once

#include "core/context.h"

namespace cohort::ops {

// a, b: (N, H, W, C). Returns (N, H, W) of accumulator dtype, differentiable in both.
Tensor pixel_cosine(Context& ctx, const Tensor& a, const Tensor& b);

}  // namespace cohort::ops
