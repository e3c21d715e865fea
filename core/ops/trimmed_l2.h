// Squared distance of a student's feature map to a teacher's without the largest third of the squares
// (formula: kernels/trimmed_l2.h). Terminal, as ops::feature_l2: writes the student's gradient itself and
// records nothing; the teacher is detached.
#pragma once

#include "core/context.h"
#include "kernels/trimmed_l2.h"

namespace cohort::ops {

struct TrimmedL2Options {
  bool per_row = false;    // a third of every sample, instead of the whole batch
  Tensor valid_rows = {};  // () i32; empty: all
  Tensor loss = {};        // () A: weight * value is added here; empty: nowhere
};

// `weight`: device scalar () A; 0 skips the maps. Returns the unweighted value, () A.
Tensor trimmed_l2(Context& ctx, const Tensor& student, const Tensor& teacher, const Tensor& weight,
                  const TrimmedL2Options& options = {});

}  // namespace cohort::ops
