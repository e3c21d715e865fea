// The weighted sum of the members' logits that fits the labels best (formula and contract:
// kernels/simplex_fit.h). No gradient.
#pragma once

#include <span>

#include "core/context.h"
#include "kernels/simplex_fit.h"

namespace cohort::ops {

struct SimplexFitInputs {
  std::span<const Tensor> logits = {};  // one (rows, classes) per member
  Tensor labels = {};                   // (rows) i32
  kernels::FitScope scope = kernels::FitScope::kSample;
  Tensor valid_rows = {};  // () i32; empty: all
};

// (rows, members), or (members) for the whole batch; A, in the step arena.
Tensor simplex_fit(Context& ctx, const SimplexFitInputs& inputs);

}  // namespace cohort::ops
