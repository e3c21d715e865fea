// Whether a teacher learns in this step, and the weights that follow (formula and contract:
// kernels/switch_rule.h). No gradient.
#pragma once

#include <span>

#include "core/context.h"
#include "kernels/switch_rule.h"

namespace cohort::ops {

struct SwitchRuleInputs {
  std::span<const Tensor> logits = {};  // one (rows, classes) per member
  Tensor labels = {};                   // (rows) i32
  Tensor valid_rows = {};               // () i32; empty: all
  kernels::SwitchRoles roles = kernels::SwitchRoles::kOneTeacher;
  double tau = 1;
  bool guard = true;
  bool code_compat = false;
};

// In the step arena.
struct SwitchDecision {
  Tensor ce_weight;        // (members) A
  Tensor kl_weight;        // (members, members) A
  Tensor step_mask, mode;  // (members) i32
};

SwitchDecision switch_rule(Context& ctx, const SwitchRuleInputs& inputs);

}  // namespace cohort::ops
