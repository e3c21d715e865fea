// Elementwise operations with gradients (kernels/pointwise.h has the formulas).
#pragma once

#include "core/context.h"

namespace cohort::ops {

Tensor relu(Context& ctx, const Tensor& x);

// a + b, of equal shape and dtype.
Tensor add(Context& ctx, const Tensor& a, const Tensor& b);

// x (N,H,W,C) without its pixels between strides, zero channels added on both sides: (N, ceil(H / stride),
// ceil(W / stride), channels). Where nothing changes, the result is x itself.
Tensor shortcut_a(Context& ctx, const Tensor& x, int stride, int channels);

}  // namespace cohort::ops
