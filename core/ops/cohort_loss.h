// Losses of the whole cohort and the gradients of its logits (formula and contract: kernels/cohort_loss.h).
// Terminal: writes the gradients itself and records nothing.
#pragma once

#include <optional>
#include <span>

#include "core/context.h"
#include "core/ops/loss_select.h"
#include "kernels/cohort_loss.h"

namespace cohort::ops {

// An empty tensor means "not given". A is accumulator_of(dtype of the logits).
struct CohortLossInputs {
  std::span<const Tensor> logits = {};  // one (rows, classes) per member
  Tensor labels = {};                   // (rows) i32

  Tensor mixed_labels = {};   // (rows, 4) i32
  Tensor mixed_weights = {};  // (rows, 4) A
  Tensor mixed_member = {};   // () i32, -1: nobody

  Tensor ce_weight = {};  // (members) A; none: 1
  Tensor kl_weight = {};  // (members, members) A, [i][j]: j teaches i; none: 0
  // In place of kl_weight: the cross-entropies of this batch decide W before anything is learnt by it.
  std::optional<TeacherChoice> choice = {};
  Tensor target_weight = {};  // (members) A; none: 0
  Tensor valid_rows = {};     // () i32; none: all

  kernels::TargetRule target_rule = kernels::TargetRule::kNone;
  Tensor given_target = {};  // (rows, classes) A, for kGiven

  double temperature = 1;
  bool t_squared = true;
  bool attached = false;
  bool all_pairs = false;    // report KL also where its weight is 0
  bool keep_target = false;  // return the shared target
  bool gradients = true;     // false: values only
};

// In the step arena of the current branch.
struct CohortLossValues {
  Tensor loss, ce, kl;                // (members)
  Tensor kl_pair;                     // (members, members)
  Tensor target_kl;                   // (members)
  Tensor ce_rows;                     // (members, rows)
  Tensor target;                      // (rows, classes) when keep_target
  Tensor winner;                      // (rows) i32 with a target rule
  Tensor correct_top1, correct_top5;  // (members) i32
  LossSelection selection;            // of a choice
};

CohortLossValues cohort_loss(Context& ctx, const CohortLossInputs& inputs);

}  // namespace cohort::ops
