// A map times a gate for every pixel (formula: kernels/pixel_gate.h).
#pragma once

#include "core/context.h"

namespace cohort::ops {

// x: (N, H, W, C); scores: (N, H, W, 1) of the same dtype, the gates before their sigmoid. The result is like
// x, differentiable in both.
Tensor pixel_gate(Context& ctx, const Tensor& x, const Tensor& scores);

}  // namespace cohort::ops
