// From a step and a method's weights to the fused loss kernel (kernels/cohort_loss.h).
#pragma once

#include "core/ops/loss_select.h"
#include "distill/method.h"
#include "kernels/cohort_loss.h"

namespace cohort::distill {

struct LogitLossOptions {
  double temperature = 1.0;
  bool t_squared = true;
  bool attached = false;  // gradients also reach the teaching side (one third-party DML)
  kernels::TargetRule target_rule = kernels::TargetRule::kNone;
  Tensor given_target = {};  // (B, C) A, for kGiven
};

// For ops that read all members' logits.
std::vector<Tensor> logits_of(const StepView& view);

// Values into view.report, gradients into the slots of the members' logits (none for a frozen member).
void logit_losses(Context& ctx, StepView& view, const LossWeights& weights, const LogitLossOptions& options);

// The same where the cross-entropies of the batch decide who teaches, on the device and in the same call:
// weights.kl is not read, and the W that holds, with the teacher and the weights of feature terms, comes back
// and goes into view.report.
ops::LossSelection logit_losses_by_choice(Context& ctx, StepView& view, const LossWeights& weights,
                                          const LogitLossOptions& options, const ops::TeacherChoice& choice);

// Of terms that a member's branch computes: adds a device scalar to its loss; copies one into a report.
void add_to_loss(Context& ctx, StepView& view, int member, const Tensor& value);
void copy(Context& ctx, const Tensor& from, const Tensor& to);

}  // namespace cohort::distill
