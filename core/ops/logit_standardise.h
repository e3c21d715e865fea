// Per-sample standardisation of logits as a differentiable operation (formula: kernels/logit_standardise.h).
#pragma once

#include "core/context.h"
#include "kernels/logit_standardise.h"

namespace cohort::ops {

struct LogitStandardiseOptions {
  double factor = 1;
  double epsilon = 1e-7;
};

// logits (N,C); the result is like them.
Tensor logit_standardise(Context& ctx, const Tensor& logits, const LogitStandardiseOptions& options = {});

}  // namespace cohort::ops
