// The teacher of this step and the weights that follow from it (rules: kernels/loss_select.h). No gradient.
#pragma once

#include "core/context.h"
#include "kernels/loss_select.h"

namespace cohort::ops {

struct LossSelectInputs {
  Tensor ce = {};       // (members) A
  Tensor ce_rows = {};  // (members, rows) A; empty: no row_winner
  kernels::SelectRule rule = kernels::SelectRule::kArgmin;
  double kl = 1;              // weight of the teacher's KL
  double feature = 0;         // weight of the feature term
  Tensor masked_member = {};  // () i32, -1: nobody; empty: nobody
  Tensor valid_rows = {};     // () i32; empty: all
};

struct LossSelection {
  Tensor teacher;         // () i32, -1: no member has a finite loss
  Tensor row_winner;      // (rows) i32
  Tensor kl_weight;       // (members, members) A
  Tensor feature_weight;  // (members, members) A
};

LossSelection loss_select(Context& ctx, const LossSelectInputs& inputs);

// The device scalar vector[i] or matrix[i][j], for ops that take or add to one value.
Tensor entry(const Tensor& vector, std::int64_t i);
Tensor entry(const Tensor& matrix, std::int64_t i, std::int64_t j);

}  // namespace cohort::ops
