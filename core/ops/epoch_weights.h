// Weights of loss terms that follow a schedule by the epoch (formula: kernels/epoch_weights.h). No gradient.
#pragma once

#include <vector>

#include "core/context.h"
#include "kernels/epoch_weights.h"

namespace cohort::ops {

// base: any shape of A; table: (entries) A, one factor per epoch, the last one for all that follow; epoch:
// (1) i32 or empty. The result is like base.
Tensor epoch_weights(Context& ctx, const Tensor& base, const Tensor& table, const Tensor& epoch);

// exp(-5 (1 - min(e, length) / length)^2) for e = 0, 1, ..., length: a ramp up to 1. {1} for length 0. Laine
// & Aila, "Temporal ensembling for semi-supervised learning", ICLR 2017.
std::vector<double> ramp_up(int length);

}  // namespace cohort::ops
