// Squared distance of a student's feature map to a teacher's (formula: kernels/feature_l2.h). Terminal:
// writes the student's gradient itself and records nothing; the teacher is detached. Where channels or sizes
// differ, the caller adapts the student's map first (ops::conv2d with a 1x1 weight, ops::adaptive_avg_pool).
#pragma once

#include "core/context.h"
#include "kernels/feature_l2.h"

namespace cohort::ops {

struct FeatureL2Options {
  kernels::FeatureReduction reduction = kernels::FeatureReduction::kMean;
  Tensor valid_rows = {};  // () i32; empty: all
  Tensor loss = {};        // () A: weight * value is added here; empty: nowhere
};

// `weight`: device scalar () A; 0 skips the maps. Returns the unweighted value, () A.
Tensor feature_l2(Context& ctx, const Tensor& student, const Tensor& teacher, const Tensor& weight,
                  const FeatureL2Options& options = {});

}  // namespace cohort::ops
