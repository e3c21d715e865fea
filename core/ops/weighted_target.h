// A shared soft target from weights of the members (formula and contract: kernels/weighted_target.h). No
// gradient: targets are constants.
#pragma once

#include <span>

#include "core/context.h"
#include "kernels/weighted_target.h"

namespace cohort::ops {

struct WeightedTargetInputs {
  std::span<const Tensor> logits = {};  // one (rows, classes) per member
  Tensor weights = {};                  // (members) or (rows, members) A
  kernels::MixRule rule = kernels::MixRule::kLogits;
  double temperature = 1;
  Tensor valid_rows = {};  // () i32; empty: all
};

// (rows, classes) A, in the step arena.
Tensor weighted_target(Context& ctx, const WeightedTargetInputs& inputs);

}  // namespace cohort::ops
