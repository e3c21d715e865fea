// Threads: 256 a block; each writes 16 bytes of consecutive channels of one row (one channel where a row or a
// pointer is not aligned to 16 bytes) and strides over the rest. What it reads is a permutation of a row's
// channels: single elements, gathered from at most `groups` runs, so that neighbouring threads share the
// sectors. No shared memory. Bytes moved: as the header says.
#include <type_traits>

#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/channel_concat.h"
#include "kernels/cuda/pack.cuh"

namespace cohort::kernels {
namespace {

using Index = std::int64_t;

constexpr int kBlock = 256;
constexpr Index kMostBlocks = 1 << 16;

// Where the channels of a row go: s and y have `channels` of them.
struct Shuffle {
  int channels, groups, per_group;

  __device__ int source(int c) const { return c % groups * per_group + c / groups; }
  __device__ int target(int k) const { return k % per_group * groups + k / per_group; }
};

struct Part {
  explicit Part(const ChannelPart& p)
      : channels(static_cast<int>(p.channels)),
        first(static_cast<int>(p.first)),
        count(static_cast<int>(p.count)) {}
  int channels, first, count;
};

Shuffle shuffle(Index channels, Index groups) {
  check(groups > 0 && channels % groups == 0, "channel_concat: groups do not divide");
  return {static_cast<int>(channels), static_cast<int>(groups), static_cast<int>(channels / groups)};
}

template <class T, int W>
__global__ __launch_bounds__(kBlock) void forward_kernel(Index count, Shuffle s, Part part_a, Part part_b,
                                                         const T* a, const T* b, T* y) {
  const Index step = static_cast<Index>(gridDim.x) * kBlock * W;
  for (Index at = (static_cast<Index>(blockIdx.x) * kBlock + threadIdx.x) * W; at < count; at += step) {
    const Index row = quotient(at, s.channels);
    const int c = static_cast<int>(at - row * s.channels);
    Pack<T, W> value;
#pragma unroll
    for (int i = 0; i < W; ++i) {
      const int k = s.source(c + i);
      const T* const from = k < part_a.count ? a + row * part_a.channels + part_a.first + k
                                             : b + row * part_b.channels + part_b.first + (k - part_a.count);
      value[i] = to_float(*from);
    }
    value.store(y + at);
  }
}

template <class T, int W, bool kAccumulate>
__global__ __launch_bounds__(kBlock) void backward_kernel(Index count, Shuffle s, Part part, int offset,
                                                          const T* grad_y, T* grad_part) {
  const Index step = static_cast<Index>(gridDim.x) * kBlock * W;
  for (Index at = (static_cast<Index>(blockIdx.x) * kBlock + threadIdx.x) * W; at < count; at += step) {
    const Index row = quotient(at, part.channels);
    const int c = static_cast<int>(at - row * part.channels) - part.first;
    if (kAccumulate && (c + W <= 0 || c >= part.count)) continue;
    Pack<T, W> value;
    if constexpr (kAccumulate) {
      value = Pack<T, W>::load(grad_part + at);
    } else {
#pragma unroll
      for (int i = 0; i < W; ++i) value[i] = 0;
    }
#pragma unroll
    for (int i = 0; i < W; ++i) {
      if (c + i < 0 || c + i >= part.count) continue;
      const auto gradient = to_float(grad_y[row * s.channels + s.target(offset + c + i)]);
      value[i] = kAccumulate ? value[i] + gradient : gradient;
    }
    value.store(grad_part + at);
  }
}

simt::LaunchConfig grid(CudaStream stream, Index count, int width) {
  return {.grid = grid_size(count, Index{kBlock} * width, kMostBlocks), .block = kBlock, .stream = stream};
}

template <class T>
void forward(CudaStream stream, const ChannelConcatForwardArgs& args) {
  constexpr int kWide = Vec<T>::kWidth;
  const Shuffle s = shuffle(args.part_a.count + args.part_b.count, args.groups);
  const Index count = args.rows * s.channels;
  if (count == 0) return;
  const Part part_a(args.part_a), part_b(args.part_b);
  const auto* a = static_cast<const T*>(args.a);
  const auto* b = static_cast<const T*>(args.b);
  auto* y = static_cast<T*>(args.y);
  if (s.channels % kWide == 0 && aligned16(y)) {
    return simt::launch(forward_kernel<T, kWide>, grid(stream, count, kWide), count, s, part_a, part_b, a, b,
                        y);
  }
  simt::launch(forward_kernel<T, 1>, grid(stream, count, 1), count, s, part_a, part_b, a, b, y);
}

template <class T, bool kAccumulate>
void backward(CudaStream stream, const ChannelConcatBackwardArgs& args) {
  constexpr int kWide = Vec<T>::kWidth;
  const Shuffle s = shuffle(args.channels, args.groups);
  const Part part(args.part);
  const Index count = args.rows * part.channels;
  if (count == 0) return;
  const int offset = static_cast<int>(args.offset);
  const auto* grad_y = static_cast<const T*>(args.grad_y);
  auto* grad_part = static_cast<T*>(args.grad_part);
  if (part.channels % kWide == 0 && aligned16(grad_part)) {
    return simt::launch(backward_kernel<T, kWide, kAccumulate>, grid(stream, count, kWide), count, s, part,
                        offset, grad_y, grad_part);
  }
  simt::launch(backward_kernel<T, 1, kAccumulate>, grid(stream, count, 1), count, s, part, offset, grad_y,
               grad_part);
}

}  // namespace

void channel_concat_forward(CudaStream stream, const ChannelConcatForwardArgs& args) {
  const Rehearsed rehearsed(stream, "channel_concat_forward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { forward<T>(stream, args); });
}

void channel_concat_backward(CudaStream stream, const ChannelConcatBackwardArgs& args) {
  const Rehearsed rehearsed(stream, "channel_concat_backward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    if (args.mode == GradMode::kAccumulate) return backward<T, true>(stream, args);
    backward<T, false>(stream, args);
  });
}

}  // namespace cohort::kernels
