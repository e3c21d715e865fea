// What the optimisers' kernels have in common. Their work is cut by bytes and not by tensor or network: a
// block of kParameterThreads owns kParameterTile consecutive elements of one flat block of parameters.
#pragma once

#include "kernels/cuda/pack.cuh"

namespace cohort::kernels {

constexpr int kParameterThreads = 256;
constexpr int kParameterTile = 4096;  // elements; f32: 16 KiB of each stream

// Of the vector at i among `count` elements: `width`, fewer at the end, 0 behind it.
__device__ inline int elements_at(std::int64_t count, std::int64_t i, int width) {
  const std::int64_t left = count - i;
  return left >= width ? width : left > 0 ? static_cast<int>(left) : 0;
}

// The first n of W bf16, all of them in one store of 2 W bytes.
template <class T, int W>
__device__ void store_shadow(const Pack<T, W>& p, bf16* shadow, int n) {
  struct alignas(2 * W) Group {
    bf16 value[W];
  };
  if (n == W) {
    Group group;
#pragma unroll
    for (int k = 0; k < W; ++k) group.value[k] = bf16(p[k]);
    *reinterpret_cast<Group*>(shadow) = group;
    return;
  }
  for (int k = 0; k < n; ++k) shadow[k] = bf16(p[k]);
}

}  // namespace cohort::kernels
