// Pooling of NHWC maps as differentiable operations (kernels/pool.h has the formulas).
#pragma once

#include "core/context.h"

namespace cohort::ops {

struct PoolOptions {
  int size = 2;
  int stride = 2;
  int padding = 0;                // at most size / 2
  bool ceil_mode = false;         // output sides rounded up, as PyTorch does it
  bool count_include_pad = true;  // average only: padding counts in the divisor
};

Tensor max_pool(Context& ctx, const Tensor& x, const PoolOptions& options);
Tensor avg_pool(Context& ctx, const Tensor& x, const PoolOptions& options);
Tensor adaptive_avg_pool(Context& ctx, const Tensor& x, int out_h, int out_w);

// (N,H,W,C) -> (N,C).
Tensor global_avg_pool(Context& ctx, const Tensor& x);

}  // namespace cohort::ops
