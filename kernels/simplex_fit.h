// The weighted sum of the members' logits that fits the labels best:
//
//   kSample: alpha[b] = argmin over the simplex of -ln softmax(sum_i alpha_i z_i[b])[y_b]
//   kBatch : one alpha, argmin of the mean of that over the batch
//
// Shapes: logits[k] (rows, classes), row-major, dtype f32, bf16 or f64; labels (rows) i32; weights
//   (rows, members) A for kSample, (members) A for kBatch, A = accumulator_of(dtype).
// Contract: weights aliases nothing and is written in full; rows from valid_rows on (i32 scalar, null: all)
//   do not count and get weights 0. Capture safe. Deterministic: rows by themselves, or summed in a fixed
//   order. Computed in double. Where a cross-entropy of some member is not finite (NaN among its logits, a
//   label outside [0, classes)), the row's (kBatch: all) weights are NaN. Weights of kBatch without a valid
//   row are those of the first member alone.
// Accuracy: two members: alpha to 2^-42 (or what the sums' rounding allows where the members agree);
//   more: at most 1e-6 above the smallest cross-entropy, or what 64 steps reach.
// Cost: about 8 evaluations of a row (two members), each an exp per class; kBatch on the GPU is one block.
// Workspace: simplex_fit_workspace; none on the GPU.
// Method: kernels/base/simplex_search.h. Source: KDCL-Linear, Guo et al., "Online Knowledge Distillation via
//   Collaborative Learning", CVPR 2020, eq. 5.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/base/traffic.h"
#include "kernels/cohort_loss.h"

namespace cohort::kernels {

enum class FitScope : std::uint8_t { kSample, kBatch };

struct SimplexFitArgs {
  CohortLossShape shape;
  std::array<const void*, kMaxMembers> logits{};
  const std::int32_t* labels = nullptr;
  FitScope scope = FitScope::kSample;
  const std::int32_t* valid_rows = nullptr;
  void* weights = nullptr;  // A
};

// By the formula above.
inline Traffic traffic(const SimplexFitArgs& a) {
  const CohortLossShape& s = a.shape;
  const std::int64_t sets = a.scope == FitScope::kBatch ? 1 : s.rows;
  return {bytes_of(s.dtype, s.members * s.rows * s.classes) + 4 * s.rows +
          bytes_of(accumulator_of(s.dtype), s.members * sets)};
}

std::size_t simplex_fit_workspace(CpuStream stream, const CohortLossShape& shape);
std::size_t simplex_fit_workspace(CudaStream stream, const CohortLossShape& shape);

void simplex_fit(CpuStream stream, const SimplexFitArgs& args, Workspace workspace);
void simplex_fit(CudaStream stream, const SimplexFitArgs& args, Workspace workspace);

}  // namespace cohort::kernels
