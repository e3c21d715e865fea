// Stochastic gradient descent with momentum: one call updates every network of the cohort.
//
//   g = gradient + weight_decay * p          (only the first num_decayed elements decay)
//   v = momentum * v + g
//   p = p - learning_rate * (nesterov ? g + momentum * v : v)
//
// for every member whose step_mask is not 0. PyTorch's rule (torch.optim.SGD, dampening 0, no maximize): its
// momentum buffer starts as the first gradient, which is what a buffer of zeros gives here. With momentum 0
// the buffer is neither read nor written and may be null. Without decay p enters no product, so weight_decay
// = 0 is exactly the rule without that term.
//
// Contract: in place on parameter and momentum; the blocks of different members do not overlap. Element-wise,
// so the bits depend on nothing but the inputs. A member with mask 0 is not touched at all (its shadow
// included).
//
// Bytes per element: f32 20 (read p, g, v; write p, v), + 2 with a bf16 shadow; without momentum 12.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

// One member's flat blocks, each (count).
struct SgdMember {
  void* parameter = nullptr;       // dtype
  const void* gradient = nullptr;  // dtype
  void* momentum = nullptr;        // dtype, zeros before the first step
  bf16* shadow = nullptr;          // the new parameters rounded to bf16, or null
  std::int64_t count = 0;
  std::int64_t num_decayed = -1;  // leading elements with weight decay; -1: all
  double weight_decay = 0.0;
};

struct SgdArgs {
  std::span<const SgdMember> members = {};  // M
  const float* learning_rate = nullptr;     // (M), device memory
  const std::int32_t* step_mask = nullptr;  // (M), device memory; null: every member steps
  double momentum = 0.9;
  bool nesterov = false;
  DType dtype = DType::f32;  // f32 or f64
};

// By the formula above.
inline Traffic traffic(const SgdArgs& a) {
  Traffic moved;
  const std::int64_t arrays = a.momentum == 0 ? 3 : 5;
  for (const SgdMember& m : a.members)
    moved.bytes += arrays * bytes_of(a.dtype, m.count) + (m.shadow == nullptr ? 0 : 2 * m.count);
  return moved;
}

void sgd(CpuStream stream, const SgdArgs& args);
void sgd(CudaStream stream, const SgdArgs& args);

}  // namespace cohort::kernels
