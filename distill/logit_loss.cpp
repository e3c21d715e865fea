#include "distill/logit_loss.h"

#include "core/dispatch.h"
#include "core/ops/cohort_loss.h"
#include "kernels/pointwise.h"

namespace cohort::distill {
std::vector<Tensor> logits_of(const StepView& view) {
  std::vector<Tensor> logits;
  for (const models::Outputs& outputs : view.outputs) logits.push_back(outputs.logits);
  return logits;
}

namespace {

// W comes with the inputs.
ops::CohortLossValues losses_of(Context& ctx, StepView& view, ops::CohortLossInputs inputs,
                                const LossWeights& weights, const LogitLossOptions& options) {
  const std::vector<Tensor> logits = logits_of(view);
  inputs.logits = logits;
  inputs.labels = view.labels;
  inputs.valid_rows = view.valid_rows;
  inputs.mixed_labels = view.mixed_labels;
  inputs.mixed_weights = view.mixed_weights;
  inputs.mixed_member = view.mixed_member;
  inputs.ce_weight = weights.ce;
  inputs.target_weight = weights.target;
  inputs.target_rule = options.target_rule;
  inputs.temperature = options.temperature;
  inputs.t_squared = options.t_squared;
  inputs.attached = options.attached;
  inputs.given_target = options.given_target;
  inputs.keep_target = options.target_rule != kernels::TargetRule::kNone;
  const ops::CohortLossValues values = ops::cohort_loss(ctx, inputs);
  Report& report = view.report;
  report.loss = values.loss;
  report.ce = values.ce;
  report.kl = values.kl;
  report.correct_top1 = values.correct_top1;
  report.correct_top5 = values.correct_top5;
  report.target = values.target;
  return values;
}

}  // namespace

void logit_losses(Context& ctx, StepView& view, const LossWeights& weights, const LogitLossOptions& options) {
  ops::CohortLossInputs inputs;
  inputs.kl_weight = weights.kl;
  losses_of(ctx, view, inputs, weights, options);
  view.report.kl_weight = weights.kl;
}

ops::LossSelection logit_losses_by_choice(Context& ctx, StepView& view, const LossWeights& weights,
                                          const LogitLossOptions& options, const ops::TeacherChoice& choice) {
  ops::CohortLossInputs inputs;
  inputs.choice = choice;
  const ops::LossSelection selection = losses_of(ctx, view, inputs, weights, options).selection;
  view.report.kl_weight = selection.kl_weight;
  view.report.teacher = selection.teacher;
  return selection;
}

void add_to_loss(Context& ctx, StepView& view, int member, const Tensor& value) {
  const Tensor loss = ops::entry(view.report.loss, member);
  on_device(ctx, [&](auto stream) {
    kernels::scale(
        stream,
        {.dtype = loss.dtype, .count = 1, .x = value.data, .y = loss.data, .mode = GradMode::kAccumulate});
  });
}

void copy(Context& ctx, const Tensor& from, const Tensor& to) {
  check(from.dtype == to.dtype && from.count() == to.count(), "copy: of one type and size");
  on_device(ctx, [&](auto stream) {
    kernels::scale(stream, {.dtype = to.dtype, .count = to.count(), .x = from.data, .y = to.data});
  });
}

}  // namespace cohort::distill
