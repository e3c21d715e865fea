// Concatenation of channels followed by a channel shuffle, in one pass: what ShuffleNet does at the end of a
// block. With one group it is a concatenation, with one part a shuffle, with both a slice of channels.
//
//   s = the channels [first, first + count) of part a, then those of part b;  C = a.count + b.count
//   forward    y[r, c] = s[r, source(c)],  source(c) = (c mod g) C/g + c / g
//   backward   grad_s[r, k] = grad_y[r, target(k)],  target(k) = (k mod C/g) g + k / (C/g)
//              grad_part is as wide as its part: kOverwrite writes 0 to the channels that are not taken
//
// The shuffle reads s as (g, C/g), transposes and flattens. Source: Zhang, Zhou, Lin, Sun, "ShuffleNet: an
// extremely efficient convolutional neural network for mobile devices", CVPR 2018, section 3.1.
//
// Shapes: rows = N H W; a (rows, a.channels), b (rows, b.channels), y (rows, C) dense, all of `dtype` (f32,
// bf16, f64). No alignment beyond the element's own is assumed. Contract: g divides C; the parts may be one
// array; y and the gradients overlap nothing. Backward does one part a call. No workspace. Values are copied
// bit by bit, sums of kAccumulate are rounded once; the same bits for any number of threads.
// Bytes moved: forward 2 rows C size_of(dtype); backward rows (part.channels + part.count) size_of(dtype),
// with kAccumulate 3 rows part.count size_of(dtype).
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

// Channels [first, first + count) of an array of `channels`.
struct ChannelPart {
  std::int64_t channels = 0;
  std::int64_t first = 0;
  std::int64_t count = 0;
};

struct ChannelConcatForwardArgs {
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t groups = 1;
  ChannelPart part_a = {};
  ChannelPart part_b = {};  // count 0: there is none
  const void* a = nullptr;
  const void* b = nullptr;
  void* y = nullptr;
};

struct ChannelConcatBackwardArgs {
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t groups = 1;
  std::int64_t channels = 0;  // C
  ChannelPart part = {};
  std::int64_t offset = 0;  // the part's first channel in s: 0 for a, a.count for b
  const void* grad_y = nullptr;
  void* grad_part = nullptr;
  GradMode mode = GradMode::kOverwrite;
};

// By the formulas above.
inline Traffic traffic(const ChannelConcatForwardArgs& a) {
  return {2 * bytes_of(a.dtype, a.rows * (a.part_a.count + a.part_b.count))};
}
inline Traffic traffic(const ChannelConcatBackwardArgs& a) {
  if (a.mode == GradMode::kAccumulate) return {3 * bytes_of(a.dtype, a.rows * a.part.count)};
  return {bytes_of(a.dtype, a.rows * (a.part.channels + a.part.count))};
}

void channel_concat_forward(CpuStream stream, const ChannelConcatForwardArgs& args);
void channel_concat_forward(CudaStream stream, const ChannelConcatForwardArgs& args);
void channel_concat_backward(CpuStream stream, const ChannelConcatBackwardArgs& args);
void channel_concat_backward(CudaStream stream, const ChannelConcatBackwardArgs& args);

}  // namespace cohort::kernels
