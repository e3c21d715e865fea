// Cosine similarity of two feature maps at every position, over channels.
//
//   S[n]  = a.b / max(|a| |b|, 1e-8)      a, b: the channel vectors of position n
//   dS/da = (b - S |b|/|a| a) / (|a| |b|), dS/db alike; 0 where |a| |b| <= 1e-8: a zero vector has similarity
//           0 and no direction to improve it
//
// Shapes: a, b, grad_a, grad_b (positions, channels), dtype f32, bf16 or f64, positions = N H W of an NHWC
// map; similarity, grad_similarity (positions), A = accumulator_of(dtype). No alignment is assumed.
//
// Contract: outputs alias nothing; grad_a or grad_b may be null. Deterministic (one position is one
// thread's), capture safe, no workspace. Scaling a or b by a power of two leaves S bitwise equal, short of
// overflow of |a|^2.
//
// Bytes moved: forward 2 positions channels size_of(dtype) + positions sizeof(A); backward the maps read
// twice, plus the gradients.
// Method: similarity of asymmetric decision-making (ADM).
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

constexpr double kCosineEpsilon = 1e-8;

struct PixelCosineArgs {
  DType dtype = DType::f32;
  std::int64_t positions = 0;
  std::int64_t channels = 0;
  const void* a = nullptr;
  const void* b = nullptr;
  void* similarity = nullptr;
};

struct PixelCosineBackwardArgs {
  DType dtype = DType::f32;
  std::int64_t positions = 0;
  std::int64_t channels = 0;
  const void* a = nullptr;
  const void* b = nullptr;
  const void* grad_similarity = nullptr;
  void* grad_a = nullptr;
  GradMode grad_a_mode = GradMode::kOverwrite;
  void* grad_b = nullptr;
  GradMode grad_b_mode = GradMode::kOverwrite;
};

// By the formulas above.
inline Traffic traffic(const PixelCosineArgs& a) {
  return {2 * bytes_of(a.dtype, a.positions * a.channels) + bytes_of(accumulator_of(a.dtype), a.positions)};
}
inline Traffic traffic(const PixelCosineBackwardArgs& a) {
  const std::int64_t count = a.positions * a.channels;
  const std::int64_t maps = 2 * bytes_of(a.dtype, count);
  Traffic moved{maps + bytes_of(accumulator_of(a.dtype), a.positions), maps};
  if (a.grad_a != nullptr) moved.bytes += written(a.dtype, count, a.grad_a_mode);
  if (a.grad_b != nullptr) moved.bytes += written(a.dtype, count, a.grad_b_mode);
  return moved;
}

void pixel_cosine(CpuStream stream, const PixelCosineArgs& args);
void pixel_cosine(CudaStream stream, const PixelCosineArgs& args);
void pixel_cosine_backward(CpuStream stream, const PixelCosineBackwardArgs& args);
void pixel_cosine_backward(CudaStream stream, const PixelCosineBackwardArgs& args);

}  // namespace cohort::kernels
