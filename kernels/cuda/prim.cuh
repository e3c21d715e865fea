// Reductions inside a warp and a block. Every participating thread gets the result, in all its bits the same:
// the order of additions is fixed by lane and warp numbers alone.
//
// Preconditions: all 32 lanes of the warp call together (W < 32: each aligned group of W lanes has its own
// result); the block forms call __syncthreads, so all threads of the block call them, and the block is a
// whole number of warps. T: float, double, int, unsigned and the 64-bit integers.
#pragma once

#include "kernels/cuda/simt.cuh"

namespace cohort::kernels {

inline constexpr unsigned kFullMask = 0xffffffffU;
inline constexpr int kWarp = 32;

struct SumOp {
  template <class T>
  __device__ static T apply(T a, T b) {
    return a + b;
  }
};

// A NaN on either side wins, as in the CPU kernels: it must not vanish from a maximum.
struct MaxOp {
  template <class T>
  __device__ static T apply(T a, T b) {
    return a > b || a != a ? a : b;
  }
};

template <class Op, int W, class T>
__device__ inline T warp_reduce(T value) {
  static_assert(W == 1 || W == 2 || W == 4 || W == 8 || W == 16 || W == 32);
  for (int step = W / 2; step > 0; step /= 2) {
    value = Op::template apply<T>(value, __shfl_xor_sync(kFullMask, value, step));
  }
  return value;
}

template <int W = kWarp, class T>
__device__ inline T warp_sum(T value) {
  return warp_reduce<SumOp, W>(value);
}

template <int W = kWarp, class T>
__device__ inline T warp_max(T value) {
  return warp_reduce<MaxOp, W>(value);
}

template <class T>
struct ValueIndex {
  T value;
  int index;
};

// The smaller value; equal values: the smaller index. A NaN is never smaller.
template <class T>
__device__ inline ValueIndex<T> smaller(ValueIndex<T> a, ValueIndex<T> b) {
  const bool take_b = b.value < a.value || (b.value == a.value && b.index < a.index) ||
                      (a.value != a.value && b.value == b.value);
  return take_b ? b : a;
}

// Where all values are NaN, the index is one of theirs and the value NaN.
template <int W = kWarp, class T>
__device__ inline ValueIndex<T> warp_argmin(ValueIndex<T> item) {
  static_assert(W == 1 || W == 2 || W == 4 || W == 8 || W == 16 || W == 32);
  for (int step = W / 2; step > 0; step /= 2) {
    const ValueIndex<T> other{__shfl_xor_sync(kFullMask, item.value, step),
                              __shfl_xor_sync(kFullMask, item.index, step)};
    item = smaller(item, other);
  }
  return item;
}

__device__ inline int thread_in_block() {
  return static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
}

__device__ inline int threads_in_block() {
  return static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
}

// `identity` fills the lanes that have no warp: 0 for a sum, -inf or the lowest number for a maximum.
template <class Op, class T>
__device__ inline T block_reduce(T value, T identity) {
  SIMT_SHARED(T, partial, [kWarp]);
  const int thread = thread_in_block();
  const int lane = thread % kWarp;
  value = warp_reduce<Op, kWarp>(value);
  if (lane == 0) partial[thread / kWarp] = value;
  __syncthreads();
  value = lane < threads_in_block() / kWarp ? partial[lane] : identity;
  value = warp_reduce<Op, kWarp>(value);
  __syncthreads();  // the next call writes `partial` again
  return value;
}

template <class T>
__device__ inline T block_sum(T value) {
  return block_reduce<SumOp>(value, T{0});
}

template <class T>
__device__ inline T block_max(T value, T lowest) {
  return block_reduce<MaxOp>(value, lowest);
}

// True, in all threads, in the block of the launch that comes here last; it then sees what all other blocks
// wrote to global memory before they came. `counter` is one word of device memory that is 0 before the first
// launch; it is 0 again afterwards. `num_blocks` blocks call this, each once per launch.
__device__ inline bool last_block(unsigned* counter, unsigned num_blocks) {
  SIMT_SHARED(int, last, [1]);
  __syncthreads();  // what this block wrote is written
  if (thread_in_block() == 0) {
    __threadfence();
    last[0] = atomicInc(counter, num_blocks - 1) == num_blocks - 1 ? 1 : 0;
    __threadfence();
  }
  __syncthreads();
  return last[0] != 0;
}

}  // namespace cohort::kernels
