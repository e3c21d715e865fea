// Whether a teacher learns in this step, decided from the distances of the members' predictions without a
// word to the host: the teaching matrix and the step mask of SwitOKD.
//
//   p_k = softmax_tau(z_k);  t = mean_b |p_t - Y|_1,  s = mean_b |p_s - Y|_1,  G = mean_b |p_s - p_t|_1
//   eps = exp(-t / (s + t)) (exp(-1/2) where s + t = 0),  delta = s - eps t
//   teacher t is an expert for student s  <=>  G > delta and (not guard or t < s);  else it learns from it
//
//   kOneTeacher (member 0 teaches 1, or 1 and 2): W[0][i] = 1 where 0 is no expert for i; ce_0 = mask_0 = 1
//     unless it is an expert for all. Students: W[i][j] = 1 for all j, ce = 1.
//   kTwoTeachers (0 and 1 teach 2): each teacher X against 2 by itself; an expert has ce_X = mask_X = 0 and
//     W[X][.] = 0, else 1. The student: W[2][j] = 1, ce = 1.
//   code_compat repeats three slips of the published code for three networks: with two teachers eps of
//     teacher 1 is computed from teacher 0's distance; with two students eps of student 1 from student 2's;
//     and there the teacher is stepped (momentum, weight decay) even when it learns nothing.
//   mode: of a teacher 1 (expert: it learns nothing) or 0 (it learns); of a student -1.
//
// Shapes: logits[k] (rows, classes), row-major, dtype f32, bf16 or f64; labels (rows) i32; ce_weight
//   (members) A, kl_weight (members, members) A, [i][j]: j teaches i, A = accumulator_of(dtype); step_mask,
//   mode (members) i32. members is 2 or 3 (kTwoTeachers: 3).
// Contract: outputs alias nothing and are written in full. Deterministic: sums in double, rows in chunks,
//   chunks in order. Capture safe. Rows from valid_rows on (i32 scalar, null: all) do not count. A NaN among
//   the logits, or a label outside [0, classes), is no expert's: every comparison with it is false.
// Bytes: members * rows * classes * size_of(dtype), on the GPU three times, from its caches after the first.
// Source: Qian et al., "Switchable online knowledge distillation", ECCV 2022, and its code.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/base/traffic.h"
#include "kernels/cohort_loss.h"

namespace cohort::kernels {

inline constexpr int kMaxSwitchMembers = 3;

enum class SwitchRoles : std::uint8_t { kOneTeacher, kTwoTeachers };

struct SwitchRuleArgs {
  CohortLossShape shape;
  std::array<const void*, kMaxSwitchMembers> logits{};
  const std::int32_t* labels = nullptr;
  const std::int32_t* valid_rows = nullptr;
  SwitchRoles roles = SwitchRoles::kOneTeacher;
  double tau = 1;
  bool guard = true;
  bool code_compat = false;

  void* ce_weight = nullptr;
  void* kl_weight = nullptr;
  std::int32_t* step_mask = nullptr;
  std::int32_t* mode = nullptr;
};

// By the formula above.
inline Traffic traffic(const SwitchRuleArgs& a) {
  const CohortLossShape& s = a.shape;
  return {bytes_of(s.dtype, s.members * s.rows * s.classes) + 4 * s.rows};
}

std::size_t switch_rule_workspace(CpuStream stream, const CohortLossShape& shape);
std::size_t switch_rule_workspace(CudaStream stream, const CohortLossShape& shape);

void switch_rule(CpuStream stream, const SwitchRuleArgs& args, Workspace workspace);
void switch_rule(CudaStream stream, const SwitchRuleArgs& args, Workspace workspace);

}  // namespace cohort::kernels
