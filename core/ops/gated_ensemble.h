// A gated sum of all members' logits: its cross-entropy and its soft target (formula and contract:
// kernels/gated_ensemble.h). Terminal: writes the gradients of logits and scores itself and records nothing.
#pragma once

#include <span>

#include "core/context.h"
#include "kernels/gated_ensemble.h"

namespace cohort::ops {

struct GatedEnsembleInputs {
  std::span<const Tensor> logits = {};  // one (rows, classes) per member
  Tensor scores = {};                   // (rows, members) A: of the gate, before its softmax
  Tensor labels = {};                   // (rows) i32
  double temperature = 1;               // of the target
  Tensor valid_rows = {};               // () i32; empty: all
};

// In the step arena of the current branch.
struct GatedEnsembleValues {
  Tensor value;            // () A: the ensemble's cross-entropy
  Tensor target;           // (rows, classes) A
  Tensor gate, grad_gate;  // (rows, members) A
};

GatedEnsembleValues gated_ensemble(Context& ctx, const GatedEnsembleInputs& inputs);

}  // namespace cohort::ops
