// A map times a gate for every pixel: the last step of a spatial attention, its sigmoid included.
//
//   g[n]           = sigmoid(scores[n])
//   y[n,c]         = x[n,c] g[n]
//   grad_x[n,c]    = grad_y[n,c] g[n]
//   grad_scores[n] = g[n] (1 - g[n]) sum_c grad_y[n,c] x[n,c]
//
// Shapes: x, y and their gradients (positions, channels), positions = N H W of an NHWC map; scores,
// grad_scores (positions); all of `dtype` (f32, bf16, f64). No alignment beyond the element's own is assumed.
//
// Contract: outputs alias nothing; grad_x or grad_scores may be null. Deterministic (a pixel is one thread's,
// or one group's of threads in a fixed order), capture safe, no workspace.
//
// Bytes moved, with X the size of x and P that of scores: forward 2 X + P; backward 2 X + P + what is
// written. Method: Woo et al., "CBAM: convolutional block attention module", ECCV 2018, as attentive feature
// interaction (AFID) has it: the scores are the other network's.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct PixelGateArgs {
  DType dtype = DType::f32;
  std::int64_t positions = 0;
  std::int64_t channels = 0;
  const void* x = nullptr;
  const void* scores = nullptr;
  void* y = nullptr;
};

struct PixelGateBackwardArgs {
  DType dtype = DType::f32;
  std::int64_t positions = 0;
  std::int64_t channels = 0;
  const void* x = nullptr;
  const void* scores = nullptr;
  const void* grad_y = nullptr;
  void* grad_x = nullptr;
  GradMode grad_x_mode = GradMode::kOverwrite;
  void* grad_scores = nullptr;
  GradMode grad_scores_mode = GradMode::kOverwrite;
};

// By the formulas above.
inline Traffic traffic(const PixelGateArgs& a) {
  return {bytes_of(a.dtype, a.positions * (2 * a.channels + 1))};
}
inline Traffic traffic(const PixelGateBackwardArgs& a) {
  Traffic moved{bytes_of(a.dtype, a.positions * (2 * a.channels + 1))};
  if (a.grad_x != nullptr) moved.bytes += written(a.dtype, a.positions * a.channels, a.grad_x_mode);
  if (a.grad_scores != nullptr) moved.bytes += written(a.dtype, a.positions, a.grad_scores_mode);
  return moved;
}

void pixel_gate(CpuStream stream, const PixelGateArgs& args);
void pixel_gate(CudaStream stream, const PixelGateArgs& args);
void pixel_gate_backward(CpuStream stream, const PixelGateBackwardArgs& args);
void pixel_gate_backward(CudaStream stream, const PixelGateBackwardArgs& args);

}  // namespace cohort::kernels
