#include "core/ops/gated_ensemble.h"

#include "core/dispatch.h"

namespace cohort::ops {

GatedEnsembleValues gated_ensemble(Context& ctx, const GatedEnsembleInputs& in) {
  const auto members = static_cast<std::int64_t>(in.logits.size());
  check(members >= 1 && members <= kernels::kMaxMembers, "gated_ensemble: 1 to 16 members");
  const Tensor& first = in.logits.front();
  check(first.shape.rank() == 2, "gated_ensemble: logits are (rows, classes)");
  const std::int64_t rows = first.shape[0];
  const DType a = accumulator_of(first.dtype);
  if (in.scores.shape != Shape{rows, members} || in.scores.dtype != a) {
    internal_error("gated_ensemble: scores " + in.scores.shape.to_string() + " " + name_of(in.scores.dtype) +
                   " for " + std::to_string(members) + " members of " + first.shape.to_string());
  }
  check(in.labels.dtype == DType::i32 && in.labels.shape == Shape{rows}, "gated_ensemble: labels are (rows)");
  const GatedEnsembleValues out{ctx.empty({}, a), ctx.empty(first.shape, a), ctx.empty(in.scores.shape, a),
                                ctx.empty(in.scores.shape, a)};
  kernels::GatedEnsembleArgs args{.shape = {first.dtype, static_cast<int>(members), rows, first.shape[1]},
                                  .scores = in.scores.data,
                                  .labels = in.labels.as<std::int32_t>(),
                                  .temperature = in.temperature,
                                  .valid_rows = static_cast<const std::int32_t*>(in.valid_rows.data),
                                  .gate = out.gate.data,
                                  .target = out.target.data,
                                  .grad_gate = out.grad_gate.data,
                                  .value = out.value.data};
  for (std::size_t k = 0; k < in.logits.size(); ++k) {
    check(in.logits[k].shape == first.shape && in.logits[k].dtype == first.dtype,
          "gated_ensemble: logits of different shapes or types");
    args.logits[k] = in.logits[k].data;
    if (const GradTarget target = ctx.grad_target(in.logits[k])) {
      args.grad_logits[k] = target.grad.data;
      args.grad_mode[k] = target.mode;
    }
  }
  if (const GradTarget target = ctx.grad_target(in.scores)) {
    args.grad_scores = target.grad.data;
    args.scores_mode = target.mode;
  }
  on_device(ctx, [&](auto stream) {
    kernels::gated_ensemble(stream, args,
                            ctx.workspace(kernels::gated_ensemble_workspace(stream, args.shape)));
  });
  return out;
}

}  // namespace cohort::ops
