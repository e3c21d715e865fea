// Every channel's map of a sample divided by its length, as a differentiable operation (formula:
// kernels/channel_normalise.h).
#pragma once

#include "core/context.h"
#include "kernels/channel_normalise.h"

namespace cohort::ops {

// x (N,H,W,C); the result is like it.
Tensor channel_normalise(Context& ctx, const Tensor& x);

}  // namespace cohort::ops
