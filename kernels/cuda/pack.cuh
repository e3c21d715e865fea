// W consecutive elements, computed in Accumulator<T>: 16-byte loads and stores where W is a multiple of the
// vector width, single elements where W is 1 (any alignment, any number of channels); and sizes of grids.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "kernels/cuda/simt.cuh"
#include "kernels/cuda/vec.cuh"

namespace cohort::kernels {

template <class T, int W>
struct Pack {
  using Value = Accumulator<T>;
  static constexpr bool kWide = W % Vec<T>::kWidth == 0;
  static_assert(kWide || W == 1);

  Value v[W];

  __device__ Value& operator[](int i) { return v[i]; }
  __device__ Value operator[](int i) const { return v[i]; }

  __device__ static Pack load(const T* p) {
    Pack r;
    if constexpr (kWide) {
#pragma unroll
      for (int k = 0; k < W; k += Vec<T>::kWidth) {
        const Vec<T> part = Vec<T>::load(p + k);
#pragma unroll
        for (int i = 0; i < Vec<T>::kWidth; ++i) r.v[k + i] = part[i];
      }
    } else {
      r.v[0] = to_float(*p);
    }
    return r;
  }
  __device__ void store(T* p) const {
    if constexpr (kWide) {
#pragma unroll
      for (int k = 0; k < W; k += Vec<T>::kWidth) {
        Vec<T> part;
#pragma unroll
        for (int i = 0; i < Vec<T>::kWidth; ++i) part[i] = v[k + i];
        part.store(p + k);
      }
    } else {
      *p = from_float<T>(v[0]);
    }
  }

  // The first n elements, 0 <= n <= W; the others are 0.
  __device__ static Pack load(const T* p, int n) {
    if (n == W) return load(p);
    Pack r;
#pragma unroll
    for (int i = 0; i < W; ++i) r.v[i] = i < n ? to_float(p[i]) : Value{0};
    return r;
  }
  __device__ void store(T* p, int n) const {
    if (n == W) return store(p);
#pragma unroll
    for (int i = 0; i < W; ++i) {
      if (i < n) p[i] = from_float<T>(v[i]);
    }
  }
};

// Whether 16-byte accesses reach every element group: pointers aligned (null ones do not count).
inline bool all_aligned16(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(), [](const void* p) { return aligned16(p); });
}

// Blocks that cover `items` with `per_block` each; beyond `most` the kernel's loop strides over the rest.
inline unsigned grid_size(std::int64_t items, std::int64_t per_block, std::int64_t most = 1 << 20) {
  return static_cast<unsigned>(std::min(most, (items + per_block - 1) / per_block));
}

// a / b of non-negative numbers: 32-bit wherever they fit, because the GPU divides 64 bits in a hundred
// instructions.
__device__ inline std::int64_t quotient(std::int64_t a, std::int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<std::uint32_t>(a) / static_cast<std::uint32_t>(b);
  return a / b;
}

}  // namespace cohort::kernels
