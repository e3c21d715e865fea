// A shared soft target from weights of the members:
//
//   kLogits        : target[b] = softmax_T(sum_i w_i z_i[b])
//   kProbabilities : target[b] = r / sum_c r_c,  r = max(0, sum_i w_i softmax_T(z_i[b]))
//
// Shapes: logits[k] (rows, classes), row-major, dtype f32, bf16 or f64; "A" is accumulator_of(dtype).
//   weights (members) A, or (rows, members) A where per_row; target (rows, classes) A, for
//   TargetRule::kGiven of kernels/cohort_loss.h. No alignment is assumed.
// Contract: target aliases nothing and is written in full; rows from valid_rows on (i32 scalar, null: all)
//   are 0. Capture safe: weights and valid_rows are read on the device only. Deterministic, each row by
//   itself. A logit or a weight that is NaN or infinite makes its row NaN. Weights of kLogits may be any
//   numbers; those of kProbabilities usually sum to 1, and where some are negative the parts of the target
//   below 0 are cut off.
// Workspace: the CPU's, three rows per thread; none on the GPU.
// Bytes: reads members * rows * classes * size_of(dtype) (the GPU two or three times, from its caches),
//   writes rows * classes * sizeof(A).
// Source: Guo et al., "Online Knowledge Distillation via Collaborative Learning", CVPR 2020, eq. 5 to 11.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/base/traffic.h"
#include "kernels/cohort_loss.h"

namespace cohort::kernels {

enum class MixRule : std::uint8_t { kLogits, kProbabilities };

struct WeightedTargetArgs {
  CohortLossShape shape;
  std::array<const void*, kMaxMembers> logits{};
  const void* weights = nullptr;  // A
  bool per_row = false;
  MixRule rule = MixRule::kLogits;
  double temperature = 1;
  const std::int32_t* valid_rows = nullptr;
  void* target = nullptr;  // (rows, classes) A
};

// By the formula above.
inline Traffic traffic(const WeightedTargetArgs& a) {
  const CohortLossShape& s = a.shape;
  return {bytes_of(s.dtype, s.members * s.rows * s.classes) +
          bytes_of(accumulator_of(s.dtype), s.rows * s.classes)};
}

std::size_t weighted_target_workspace(CpuStream stream, const CohortLossShape& shape);
std::size_t weighted_target_workspace(CudaStream stream, const CohortLossShape& shape);

void weighted_target(CpuStream stream, const WeightedTargetArgs& args, Workspace workspace);
void weighted_target(CudaStream stream, const WeightedTargetArgs& args, Workspace workspace);

}  // namespace cohort::kernels
