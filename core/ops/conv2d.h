// Convolution as a differentiable operation (kernels/conv2d.h has the formula).
#pragma once

#include "core/context.h"

namespace cohort::ops {

struct Conv2dOptions {
  int stride = 1, padding = 0, dilation = 1, groups = 1;
};

// x (N,H,W,C), weight (K,kh,kw,C/groups) of the same dtype, bias (K) of accumulator_of(dtype) or empty; the
// result is (N,out_h,out_w,K).
Tensor conv2d(Context& ctx, const Tensor& x, const Tensor& weight, const Conv2dOptions& options = {},
              const Tensor& bias = {});

}  // namespace cohort::ops
