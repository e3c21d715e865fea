// Soft targets from a network's predictions an epoch ago, and its present ones stored for the next (formula:
// kernels/temporal_target.h). No gradient.
#pragma once

#include "core/context.h"
#include "kernels/temporal_target.h"

namespace cohort::ops {

struct TemporalTargetInputs {
  Tensor logits = {};      // (N, classes)
  Tensor labels = {};      // (N) i32
  Tensor indices = {};     // (N) i32: which samples they are; may be empty without a table
  Tensor delta = {};       // () or (1) A: the share of the prediction before
  Tensor table = {};       // (samples, classes) A, read and written; empty: nothing is known
  Tensor former = {};      // (N, classes) in place of a table: what the network of an epoch ago answers
  Tensor valid_rows = {};  // () i32; empty: all
};

// (N, classes) A.
Tensor temporal_target(Context& ctx, const TemporalTargetInputs& in);

}  // namespace cohort::ops
