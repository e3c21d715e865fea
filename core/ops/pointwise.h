// Elementwise operations with gradients (kernels/pointwise.h has the formulas).
#pragma once

#include "core/context.h"

namespace cohort::ops {

Tensor relu(Context& ctx, const Tensor& x);
Tensor leaky_relu(Context& ctx, const Tensor& x, double slope = 0.01);
Tensor sigmoid(Context& ctx, const Tensor& x);

// a + b, of equal shape and dtype.
Tensor add(Context& ctx, const Tensor& a, const Tensor& b);

// Adds factor * gradient to the gradient of x, if x wants one: what another branch collected for it.
void add_gradient(Context& ctx, const Tensor& x, const Tensor& gradient, double factor = 1);

// x (N,H,W,C) without its pixels between strides, zero channels added on both sides: (N, ceil(H / stride),
// ceil(W / stride), channels). Where nothing changes, the result is x itself.
Tensor shortcut_a(Context& ctx, const Tensor& x, int stride, int channels);

}  // namespace cohort::ops
