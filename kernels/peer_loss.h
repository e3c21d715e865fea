// Every member learns from the mean of the others' logits, added to its loss and gradient:
//
//   m_i = mean_{j != i} z_j,  q_i = softmax(m_i / T),  s_i = softmax(z_i / T)
//   kKl           : value_i = S mean_b sum_c q_i (ln q_i - ln s_i)
//   kCrossEntropy : value_i = S mean_b sum_c -q_i ln s_i
//   loss_i += w_i value_i,  kl_i += w_i value_i,  S = T^2 when t_squared, else 1
//   grad_z_i = w_i S/T (s_i - q_i) / rows      in both forms: they differ by the entropy of q_i, a constant
//
// Shapes: logits[k], grad_logits[k] (rows, classes), row-major, dtype f32, bf16 or f64; weight, loss, kl,
//   value (members) of A = accumulator_of(dtype). No alignment is assumed. Null outputs are not written.
// Contract: outputs alias nothing. Deterministic: rows in fixed chunks, chunks summed in order in double.
//   Capture safe: weights are read on the device. A weight of 0 adds nothing, and its value is 0. Rows from
//   valid_rows on (i32 scalar, null: all) do not count and have gradient 0 (kAccumulate: keep theirs). A NaN
//   or an infinity is a NaN of its row for all members.
// Bytes: reads members * rows * classes * size_of(dtype) (from the caches members times three), writes as
//   much.
// Source: Song & Chai, "Collaborative learning for deep neural networks", NeurIPS 2018, eq. 3 and 4.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/base/traffic.h"
#include "kernels/cohort_loss.h"

namespace cohort::kernels {

enum class PeerForm : std::uint8_t { kKl, kCrossEntropy };

struct PeerLossArgs {
  CohortLossShape shape;  // two members or more
  std::array<const void*, kMaxMembers> logits{};
  std::array<void*, kMaxMembers> grad_logits{};
  std::array<GradMode, kMaxMembers> grad_mode{};
  const void* weight = nullptr;  // (members) A
  PeerForm form = PeerForm::kKl;
  double temperature = 1;
  bool t_squared = true;
  const std::int32_t* valid_rows = nullptr;

  void* loss = nullptr;   // (members) A, added to
  void* kl = nullptr;     // (members) A, added to
  void* value = nullptr;  // (members) A
};

// By the formula above.
inline Traffic traffic(const PeerLossArgs& a) {
  const CohortLossShape& s = a.shape;
  Traffic moved{bytes_of(s.dtype, s.members * s.rows * s.classes)};
  for (int k = 0; k < s.members; ++k) {
    const auto at = static_cast<std::size_t>(k);
    if (a.grad_logits[at] != nullptr) moved.bytes += written(s.dtype, s.rows * s.classes, a.grad_mode[at]);
  }
  return moved;
}

inline void validate(const PeerLossArgs& args) {
  const CohortLossShape& s = args.shape;
  check(s.members >= 2 && s.members <= kMaxMembers, "peer_loss: members must be in [2, 16]");
  check(s.rows >= 0 && s.classes >= 1, "peer_loss: rows must not be negative, classes must be positive");
  check(args.temperature > 0, "peer_loss: temperature must be positive");
  check(args.weight != nullptr, "peer_loss: no weights");
}

std::size_t peer_loss_workspace(CpuStream stream, const CohortLossShape& shape);
std::size_t peer_loss_workspace(CudaStream stream, const CohortLossShape& shape);

void peer_loss(CpuStream stream, const PeerLossArgs& args, Workspace workspace);
void peer_loss(CudaStream stream, const PeerLossArgs& args, Workspace workspace);

}  // namespace cohort::kernels
