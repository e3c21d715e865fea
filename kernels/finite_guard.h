// Decides on the device which members may be stepped: those whose loss and whole gradient are finite.
//
//   mask[m] = allowed[m] && isfinite(loss[m]) && every gradient of every block of member m is finite
//   block_mask[b] = mask[member of b]
//
// Shapes: block b is a flat gradient (count) of `dtype`, owned by member blocks[b].member; loss (M) of the
// accumulator dtype (= dtype); allowed, mask (M), block_mask (blocks) i32.
//
// Contract: outputs alias nothing. Deterministic. A NaN in one member never touches another one's mask.
// Bytes moved: count * size_of(dtype), every gradient once.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct GradientBlock {
  const void* data = nullptr;
  std::int64_t count = 0;
  int member = 0;
};

struct FiniteGuardArgs {
  DType dtype = DType::f32;  // f32 or f64
  int members = 0;
  std::span<const GradientBlock> blocks;
  const void* loss = nullptr;
  const std::int32_t* allowed = nullptr;
  std::int32_t* mask = nullptr;
  std::int32_t* block_mask = nullptr;
};

// By the formula above.
inline Traffic traffic(const FiniteGuardArgs& a) {
  Traffic moved;
  for (const GradientBlock& block : a.blocks) moved.bytes += bytes_of(a.dtype, block.count);
  return moved;
}

void finite_guard(CpuStream stream, const FiniteGuardArgs& args);
void finite_guard(CudaStream stream, const FiniteGuardArgs& args);

}  // namespace cohort::kernels
