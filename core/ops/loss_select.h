// A batch that chooses its teachers by their losses (rules: kernels/loss_select.h): what ops::cohort_loss is
// asked for, and what it answers. And single entries of device vectors and matrices.
#pragma once

#include "core/tensor.h"
#include "kernels/loss_select.h"

namespace cohort::ops {

struct TeacherChoice {
  kernels::SelectRule rule = kernels::SelectRule::kArgmin;
  double kl = 1;              // weight of the teacher's KL
  double feature = 0;         // weight of the feature term
  Tensor masked_member = {};  // () i32, -1: nobody; empty: nobody
};

struct LossSelection {
  Tensor teacher;         // () i32, -1: no member has a finite loss
  Tensor kl_weight;       // (members, members) A
  Tensor feature_weight;  // (members, members) A
};

// The device scalar vector[i] or matrix[i][j], for ops that take or add to one value.
Tensor entry(const Tensor& vector, std::int64_t i);
Tensor entry(const Tensor& matrix, std::int64_t i, std::int64_t j);

}  // namespace cohort::ops
