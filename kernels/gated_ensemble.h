// The gated sum of all members' logits, its cross-entropy with every gradient, and its soft target:
//
//   g[b]   = softmax(scores[b]),  z_e[b] = sum_i g_i z_i[b]
//   value  = mean_b -ln softmax(z_e[b])[y_b];   loss += value
//   target = softmax(z_e / T)
//   grad_z_i      = g_i d,  d = (softmax(z_e) - Y) / rows
//   grad_gate_i   = sum_c d_c z_i,c
//   grad_scores_i = g_i (grad_gate_i - sum_j g_j grad_gate_j)
//
// Shapes: logits[k], grad_logits[k] (rows, classes), row-major, dtype f32, bf16 or f64; "A" is
//   accumulator_of(dtype): scores, gate, grad_gate, grad_scores (rows, members) A, target (rows, classes) A
//   for TargetRule::kGiven of kernels/cohort_loss.h, loss and value scalars of A; labels (rows) i32. No
//   alignment is assumed. Null outputs are not written.
// Contract: outputs alias nothing. Deterministic: rows in fixed chunks, chunks summed in order in double.
//   Capture safe. Rows from valid_rows on (i32 scalar, null: all) do not count: their target, gate and
//   gradients are 0 (gradients with kAccumulate: untouched). A label outside [0, classes), a NaN or an
//   infinity among a row's logits or scores: NaN in that row's results and in the value.
// Bytes: reads members * rows * classes * size_of(dtype) (the GPU three times, from its caches), writes as
//   much and rows * classes * sizeof(A).
// Source: Lan et al., "Knowledge distillation by on-the-fly native ensemble", NeurIPS 2018, eq. 4 to 6.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/base/traffic.h"
#include "kernels/cohort_loss.h"

namespace cohort::kernels {

struct GatedEnsembleArgs {
  CohortLossShape shape;
  std::array<const void*, kMaxMembers> logits{};
  std::array<void*, kMaxMembers> grad_logits{};
  std::array<GradMode, kMaxMembers> grad_mode{};
  const void* scores = nullptr;          // (rows, members) A
  const std::int32_t* labels = nullptr;  // (rows)
  double temperature = 1;                // of the target
  const std::int32_t* valid_rows = nullptr;

  void* gate = nullptr;         // (rows, members) A
  void* target = nullptr;       // (rows, classes) A
  void* grad_gate = nullptr;    // (rows, members) A
  void* grad_scores = nullptr;  // (rows, members) A
  GradMode scores_mode = GradMode::kOverwrite;
  void* loss = nullptr;  // added to
  void* value = nullptr;
};

// By the formula above.
inline Traffic traffic(const GatedEnsembleArgs& a) {
  const CohortLossShape& s = a.shape;
  const std::int64_t logits = s.rows * s.classes;
  Traffic moved{bytes_of(s.dtype, s.members * logits) + 4 * s.rows +
                bytes_of(accumulator_of(s.dtype), logits + 4 * s.rows * s.members)};
  for (int k = 0; k < s.members; ++k) {
    const auto at = static_cast<std::size_t>(k);
    if (a.grad_logits[at] != nullptr) moved.bytes += written(s.dtype, logits, a.grad_mode[at]);
  }
  return moved;
}

inline void validate(const GatedEnsembleArgs& args) {
  const CohortLossShape& s = args.shape;
  check(s.members >= 1 && s.members <= kMaxMembers, "gated_ensemble: members must be in [1, 16]");
  check(s.rows >= 0 && s.classes >= 1, "gated_ensemble: rows must not be negative, classes must be positive");
  check(args.temperature > 0, "gated_ensemble: temperature must be positive");
  check(args.scores != nullptr && args.labels != nullptr, "gated_ensemble: no scores or no labels");
}

std::size_t gated_ensemble_workspace(CpuStream stream, const CohortLossShape& shape);
std::size_t gated_ensemble_workspace(CudaStream stream, const CohortLossShape& shape);

void gated_ensemble(CpuStream stream, const GatedEnsembleArgs& args, Workspace workspace);
void gated_ensemble(CudaStream stream, const GatedEnsembleArgs& args, Workspace workspace);

}  // namespace cohort::kernels
