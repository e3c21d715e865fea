// Distance of two networks' relations between the samples of a batch: their Gram matrices, and the formula of
// kernels/relation_loss.h. Terminal: writes the student's gradient itself and records nothing; the teacher is
// detached.
#pragma once

#include "core/context.h"
#include "kernels/relation_loss.h"

namespace cohort::ops {

struct RelationLossInputs {
  Tensor student = {}, teacher = {};  // (N, ...) maps of any shapes, flattened per sample
  Tensor weight = {};                 // () A
  Tensor valid_rows = {};             // () i32; empty: all
  Tensor loss = {};                   // () A: weight * value is added here; empty: nowhere
};

// Returns the unweighted value, () A.
Tensor relation_loss(Context& ctx, const RelationLossInputs& inputs);

}  // namespace cohort::ops
