// Who teaches whom in this step, decided from the members' losses without a word to the host: the teaching
// matrix of competitive distillation.
//
//   finite(k)  = ce[k] is neither NaN nor infinite
//   teacher    = argmin_{k: finite} ce[k], lowest index on ties; -1 when nobody is finite
//   kArgmin    : W[i][teacher] = kl for i != teacher, everything else 0
//   kAllBetter : W[i][j] = kl / n_i for every finite j with ce[j] < ce[i] strictly, n_i their number; else 0
//   feature_weight[i][j] = W[i][j] with `feature` in place of `kl`, 0 where i or j is masked_member
//   row_winner[b] = argmin over members of ce_rows[.][b], by the same rule
//
// Shapes: ce (members), ce_rows (members, rows), kl_weight and feature_weight (members, members; [i][j]: j
// teaches i) of A = f32 or f64; teacher and masked_member i32 scalars; row_winner (rows) i32. masked_member
// is -1 or null for nobody, else a member whose input was moved geometrically: its maps match nobody's. Null
// outputs are not written.
//
// Contract: every output is written in full; deterministic; no workspace; capture safe. Rows from valid_rows
// on (i32 scalar, null: all) get row_winner -1.
//
// Bytes moved: members * rows * sizeof(A) read for row_winner; the rest is O(members^2).
// Method: argmin is the competitive paper's rule; all better is that of its published code, which averages
// over all better members.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

enum class SelectRule : std::uint8_t { kArgmin, kAllBetter };

struct LossSelectArgs {
  DType dtype = DType::f32;  // A
  int members = 0;
  std::int64_t rows = 0;
  SelectRule rule = SelectRule::kArgmin;
  double kl = 1;
  double feature = 0;

  const void* ce = nullptr;
  const void* ce_rows = nullptr;  // needed for row_winner only
  const std::int32_t* masked_member = nullptr;
  const std::int32_t* valid_rows = nullptr;

  std::int32_t* teacher = nullptr;
  std::int32_t* row_winner = nullptr;
  void* kl_weight = nullptr;
  void* feature_weight = nullptr;
};

// By the formula above.
inline Traffic traffic(const LossSelectArgs& a) {
  const std::int64_t a_size = bytes_of(a.dtype, 1);
  return {(a.row_winner == nullptr ? 0 : a.members * a.rows * a_size) +
          a.members * (1 + 2 * a.members) * a_size};
}

void loss_select(CpuStream stream, const LossSelectArgs& args);
void loss_select(CudaStream stream, const LossSelectArgs& args);

}  // namespace cohort::kernels
