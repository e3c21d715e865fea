// Every channel's map of a sample divided by its length over the positions, and the gradient of that.
//
//   norm[n,c] = sqrt(sum_p x[n,p,c]^2)
//   y[n,p,c]  = x[n,p,c] / norm
//   grad_x    = (g - y sum_p g y) / norm, g = grad_y
//       y and grad_x are 0 where norm <= 1e-12: a map of zeros has no direction to turn in
//
// Shapes: x, y, grad_x, grad_y (samples, positions, channels) = NHWC, dtype f32, bf16 or f64; sums in A =
// accumulator_of(dtype). No alignment is assumed.
//
// Contract: outputs alias nothing. Deterministic: a channel's positions are added in a fixed order. Capture
// safe. Maps do not touch each other: a NaN stays in its channel of its sample. Multiplying a map by a power
// of two leaves y bitwise equal, short of overflow of the squares. Workspace: channel_normalise_workspace
// (CPU; the device has none).
//
// Bytes moved: forward 2 samples positions channels size_of(dtype) (the input twice, again from the caches),
// backward 3 (both inputs twice).
// Method: the variant "norm" of ADM's feature loss.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/loss_value.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct ChannelNormaliseArgs {
  DType dtype = DType::f32;
  std::int64_t samples = 0;
  std::int64_t positions = 0;
  std::int64_t channels = 0;
  const void* x = nullptr;
  void* y = nullptr;
};

struct ChannelNormaliseBackwardArgs {
  DType dtype = DType::f32;
  std::int64_t samples = 0;
  std::int64_t positions = 0;
  std::int64_t channels = 0;
  const void* x = nullptr;
  const void* grad_y = nullptr;
  void* grad_x = nullptr;
  GradMode mode = GradMode::kOverwrite;
};

// By the formulas above.
inline Traffic traffic(const ChannelNormaliseArgs& a) {
  const std::int64_t once = bytes_of(a.dtype, a.samples * a.positions * a.channels);
  return {2 * once, once};
}
inline Traffic traffic(const ChannelNormaliseBackwardArgs& a) {
  const std::int64_t count = a.samples * a.positions * a.channels;
  return {2 * bytes_of(a.dtype, count) + written(a.dtype, count, a.mode), 2 * bytes_of(a.dtype, count)};
}

// Two rows of channels per thread of the stream.
std::size_t channel_normalise_workspace(CpuStream stream, DType dtype, std::int64_t channels);
std::size_t channel_normalise_workspace(CudaStream stream, DType dtype, std::int64_t channels);

void channel_normalise(CpuStream stream, const ChannelNormaliseArgs& args, Workspace workspace);
void channel_normalise(CudaStream stream, const ChannelNormaliseArgs& args, Workspace workspace);
void channel_normalise_backward(CpuStream stream, const ChannelNormaliseBackwardArgs& args,
                                Workspace workspace);
void channel_normalise_backward(CudaStream stream, const ChannelNormaliseBackwardArgs& args,
                                Workspace workspace);

}  // namespace cohort::kernels
