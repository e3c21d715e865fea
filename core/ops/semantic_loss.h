// Distance of two networks' class semantics: the gradients of their cross-entropies by their classifiers'
// weights, in closed form (kernels/softmax_residual.h), and the formula of kernels/semantic_loss.h. Terminal:
// writes the gradients of the student's logits and features itself and records nothing; the teacher is
// detached.
#pragma once

#include "core/context.h"
#include "kernels/semantic_loss.h"

namespace cohort::ops {

struct SemanticLossInputs {
  Tensor student_logits = {}, teacher_logits = {};      // (N, classes) A
  Tensor student_features = {}, teacher_features = {};  // (N, ..., d): what the classifiers read
  Tensor labels = {};                                   // (N) i32
  Tensor weight = {};                                   // () A
  Tensor valid_rows = {};                               // () i32; empty: all
  Tensor loss = {};                                     // () A: weight * value is added here; empty: nowhere
};

// Returns the unweighted value, () A.
Tensor semantic_loss(Context& ctx, const SemanticLossInputs& inputs);

}  // namespace cohort::ops
