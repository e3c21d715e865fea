// What a spatial attention looks at: mean and maximum over the gated channels of every pixel (formula:
// kernels/channel_summary.h).
#pragma once

#include "core/context.h"

namespace cohort::ops {

// x: (N, H, W, C); scores: (N, C), or any shape of N C elements, of the same dtype: the channels' gates
// before their sigmoid. The result is (N, H, W, 2), differentiable in both.
Tensor channel_summary(Context& ctx, const Tensor& x, const Tensor& scores);

}  // namespace cohort::ops
