// The mean and the maximum over the channels of every pixel, each channel scaled by a gate of its image: what
// a spatial attention looks at, behind a channel attention.
//
//   gate[n,c]      = sigmoid(scores[n,c])
//   summary[n,p,0] = mean_c gate[n,c] x[n,p,c]
//   summary[n,p,1] = max_c  gate[n,c] x[n,p,c]      argmax[n,p]: the first channel that has it; NaN wins
//
//   d[n,p,c]       = grad_summary[n,p,0] / C + (c == argmax[n,p] ? grad_summary[n,p,1] : 0)
//   grad_x         = gate d
//   grad_scores    = gate (1 - gate) sum_p x d
//
// Shapes: x, grad_x (samples, positions, channels) = NHWC, scores, grad_scores (samples, channels), summary,
// grad_summary (samples, positions, 2), all of `dtype` (f32, bf16, f64); gate (samples, channels),
// A = accumulator_of(dtype); argmax (samples, positions) i32. No alignment beyond the element's own is
// assumed.
//
// Contract: outputs alias nothing. gate and argmax are the forward pass's, for the backward pass. grad_x or
// grad_scores may be null. Deterministic, capture safe, no workspace.
//
// Bytes moved, with X the size of x and P = samples positions: forward X + 2 P size_of(dtype) + 4 P; backward
// the same + X written (+ X read with kAccumulate).
// Method: channel and spatial attention of Woo et al., "CBAM: convolutional block attention module", ECCV
// 2018, as attentive feature interaction (AFID) has it.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct ChannelSummaryShape {
  std::int64_t samples = 0;
  std::int64_t positions = 0;
  std::int64_t channels = 0;

  constexpr std::int64_t num_x() const { return samples * positions * channels; }
  constexpr std::int64_t num_pixels() const { return samples * positions; }
};

struct ChannelSummaryArgs {
  DType dtype = DType::f32;
  ChannelSummaryShape shape;
  const void* x = nullptr;
  const void* scores = nullptr;
  void* gate = nullptr;
  void* summary = nullptr;
  std::int32_t* argmax = nullptr;
};

struct ChannelSummaryBackwardArgs {
  DType dtype = DType::f32;
  ChannelSummaryShape shape;
  const void* x = nullptr;
  const void* gate = nullptr;
  const std::int32_t* argmax = nullptr;
  const void* grad_summary = nullptr;
  void* grad_x = nullptr;
  GradMode grad_x_mode = GradMode::kOverwrite;
  void* grad_scores = nullptr;
  GradMode grad_scores_mode = GradMode::kOverwrite;
};

// By the formulas above.
inline Traffic traffic(const ChannelSummaryArgs& a) {
  return {bytes_of(a.dtype, a.shape.num_x() + 2 * a.shape.num_pixels()) + 4 * a.shape.num_pixels()};
}
inline Traffic traffic(const ChannelSummaryBackwardArgs& a) {
  Traffic moved{bytes_of(a.dtype, a.shape.num_x() + 2 * a.shape.num_pixels()) + 4 * a.shape.num_pixels()};
  if (a.grad_x != nullptr) moved.bytes += written(a.dtype, a.shape.num_x(), a.grad_x_mode);
  return moved;
}

void channel_summary(CpuStream stream, const ChannelSummaryArgs& args);
void channel_summary(CudaStream stream, const ChannelSummaryArgs& args);
void channel_summary_backward(CpuStream stream, const ChannelSummaryBackwardArgs& args);
void channel_summary_backward(CudaStream stream, const ChannelSummaryBackwardArgs& args);

}  // namespace cohort::kernels
