// Transposed convolution as a differentiable operation: the data gradient of a convolution as a forward map.
//
//   y[n,h,w,c] = sum over k, r, s, p, q with h = p stride - padding + r, w = q stride - padding + s of
//                x[n,p,q,k] weight[k,r,s,c]
//
// It is that of PyTorch's conv_transpose2d without bias, output padding, groups and dilation.
#pragma once

#include "core/context.h"

namespace cohort::ops {

struct Conv2dTransposeOptions {
  int stride = 2, padding = 1;
};

// x (N,H,W,K), weight (K,kh,kw,C) of the same dtype; the result is (N,H',W',C) with
// H' = (H - 1) stride - 2 padding + kh.
Tensor conv2d_transpose(Context& ctx, const Tensor& x, const Tensor& weight,
                        const Conv2dTransposeOptions& options = {});

}  // namespace cohort::ops
