// attention_weights: a warp per sample, 4 per block; both means from one read, sums by lane, then by
// shuffles.
//
// attention_pool: a block of 256 threads per sample and per tile of channels. `lanes` threads (a power of
// two, at most 32) hold 16 bytes of channels each, and 256 / lanes groups of them take every (256 / lanes)-th
// position; the groups' partial sums meet in shared memory and are added in the order of the groups.
//
// attention_pool_backward: `lanes` threads per position, 256 / lanes positions per block.
//
// Where a pointer or a row of channels is not 16-byte aligned, a thread holds one channel instead.
// Shared memory: pool 8 KiB (bf16), 4 (f32, f64). Bytes: kernels/attention_reweight.h.
// Registers (sm_90): weights 44, pool 32 (f32), 37 (bf16), backward 29 (f32), 32 (bf16), no spill.
#include <cmath>

#include "kernels/attention_reweight.h"
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/lanes.cuh"
#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/simt.cuh"
#include "kernels/cuda/vec.cuh"

namespace cohort::kernels {
namespace {

constexpr double kEpsilon = 1e-5;
constexpr double kFlat = 1e-4;
constexpr int kThreads = 256;
constexpr int kWeightThreads = 128;

// Mean of a weight map before it is normalised -> what to divide by; 0: the map is 1 everywhere.
template <class A>
__device__ A divisor(A sum, int positions) {
  const A mean = sum / static_cast<A>(positions);
  return mean < static_cast<A>(kFlat) ? A(0) : mean + static_cast<A>(kEpsilon);
}

template <class A>
__device__ A normalised(A value, A divisor) {
  return divisor == A(0) ? A(1) : value / divisor;
}

template <class A>
__global__ void __launch_bounds__(kWeightThreads)
    weights_kernel(const A* similarity, A* co, A* di, std::int64_t samples, int positions) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t n = (static_cast<std::int64_t>(blockIdx.x) * kWeightThreads + threadIdx.x) / kWarp;
  if (n >= samples) return;  // whole warps
  const A* const s = similarity + n * positions;
  A sum_co = 0, sum_di = 0;
  for (int p = lane; p < positions; p += kWarp) {
    sum_co += A(1) + s[p];
    sum_di += A(1) - s[p];
  }
  const A divisor_co = divisor(warp_sum(sum_co), positions);
  const A divisor_di = divisor(warp_sum(sum_di), positions);
  for (int p = lane; p < positions; p += kWarp) {
    if (co != nullptr) co[n * positions + p] = normalised(A(1) + s[p], divisor_co);
    if (di != nullptr) di[n * positions + p] = normalised(A(1) - s[p], divisor_di);
  }
}

template <class T>
struct Pool {
  using A = Accumulator<T>;
  const T* features;
  const A* weights;
  T* pooled;
  int positions, channels;
  int lanes;  // threads along the channels
  int tiles;  // blocks per sample
  bool relu;
};

// kWidth values from channel c on: 16 bytes, or one value.
template <class T, int kWidth>
__device__ void load(const T* p, Accumulator<T> (&v)[kWidth]) {
  if constexpr (kWidth > 1) {
    const Vec<T> raw = Vec<T>::load(p);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) v[k] = raw[k];
  } else {
    v[0] = static_cast<Accumulator<T>>(*p);
  }
}

template <class T, int kWidth>
__device__ void store(T* p, const Accumulator<T> (&v)[kWidth]) {
  if constexpr (kWidth > 1) {
    Vec<T> raw;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) raw[k] = v[k];
    raw.store(p);
  } else {
    *p = static_cast<T>(v[0]);
  }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) pool_kernel(Pool<T> job) {
  using A = Accumulator<T>;
  SIMT_SHARED(A, partial, [kWidth][kThreads]);
  const int thread = static_cast<int>(threadIdx.x);
  const int groups = kThreads / job.lanes;
  const std::int64_t n = blockIdx.x / static_cast<unsigned>(job.tiles);
  const int tile = static_cast<int>(blockIdx.x % static_cast<unsigned>(job.tiles)) * job.lanes * kWidth;
  const int c = tile + thread % job.lanes * kWidth;
  A sum[kWidth] = {};
  if (c < job.channels) {
#pragma unroll 4
    for (int p = thread / job.lanes; p < job.positions; p += groups) {
      const std::int64_t at = n * job.positions + p;
      const A weight = job.weights[at];
      A v[kWidth];
      load<T, kWidth>(job.features + at * job.channels + c, v);
#pragma unroll
      for (int k = 0; k < kWidth; ++k)
        sum[k] = std::fma(weight, job.relu && v[k] < A(0) ? A(0) : v[k], sum[k]);
    }
  }
#pragma unroll
  for (int k = 0; k < kWidth; ++k) partial[k][thread] = sum[k];
  __syncthreads();
  const A inverse = A(1) / static_cast<A>(job.positions);
  for (int i = thread; i < job.lanes * kWidth && tile + i < job.channels; i += kThreads) {
    A total = 0;
    for (int g = 0; g < groups; ++g) total += partial[i % kWidth][g * job.lanes + i / kWidth];
    job.pooled[n * job.channels + tile + i] = static_cast<T>(total * inverse);
  }
}

template <class T>
struct Spread {
  using A = Accumulator<T>;
  const T* features;  // null: no ReLU
  const A* weights;
  const T* grad_pooled;
  T* grad_features;
  std::int64_t rows;  // samples * positions
  int positions, channels;
  int lanes;
  bool accumulate;
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) spread_kernel(Spread<T> job) {
  using A = Accumulator<T>;
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * (kThreads / job.lanes) + thread / job.lanes;
  if (row >= job.rows) return;
  const T* const pooled = job.grad_pooled + row / job.positions * job.channels;
  const A scale = job.weights[row] * (A(1) / static_cast<A>(job.positions));
  for (int c = thread % job.lanes * kWidth; c < job.channels; c += job.lanes * kWidth) {
    const std::int64_t at = row * job.channels + c;
    A g[kWidth], f[kWidth] = {}, sum[kWidth] = {};
    load<T, kWidth>(pooled + c, g);
    if (job.features != nullptr) load<T, kWidth>(job.features + at, f);
    if (job.accumulate) load<T, kWidth>(job.grad_features + at, sum);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const bool off = job.features != nullptr && f[k] <= A(0);
      sum[k] = job.accumulate ? sum[k] + (off ? A(0) : scale * g[k]) : (off ? A(0) : scale * g[k]);
    }
    store<T, kWidth>(job.grad_features + at, sum);
  }
}

unsigned blocks(std::int64_t items, std::int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

template <class A>
void weights(CudaStream stream, const AttentionWeightsArgs& args) {
  simt::launch(
      weights_kernel<A>,
      {.grid = blocks(args.samples, kWeightThreads / kWarp), .block = kWeightThreads, .stream = stream},
      static_cast<const A*>(args.similarity), static_cast<A*>(args.co), static_cast<A*>(args.di),
      args.samples, static_cast<int>(args.positions));
}

template <class T, int kWidth>
void pool(CudaStream stream, const AttentionPoolArgs& args) {
  const int lanes = lanes_for(args.channels, kWidth);
  const unsigned tiles = blocks(args.channels, lanes * kWidth);
  simt::launch(pool_kernel<T, kWidth>,
               {.grid = static_cast<unsigned>(args.samples) * tiles, .block = kThreads, .stream = stream},
               Pool<T>{static_cast<const T*>(args.features), static_cast<const Accumulator<T>*>(args.weights),
                       static_cast<T*>(args.pooled), static_cast<int>(args.positions),
                       static_cast<int>(args.channels), lanes, static_cast<int>(tiles), args.relu});
}

template <class T, int kWidth>
void spread(CudaStream stream, const AttentionPoolBackwardArgs& args) {
  const int lanes = lanes_for(args.channels, kWidth);
  const std::int64_t rows = args.samples * args.positions;
  simt::launch(
      spread_kernel<T, kWidth>, {.grid = blocks(rows, kThreads / lanes), .block = kThreads, .stream = stream},
      Spread<T>{args.relu ? static_cast<const T*>(args.features) : nullptr,
                static_cast<const Accumulator<T>*>(args.weights), static_cast<const T*>(args.grad_pooled),
                static_cast<T*>(args.grad_features), rows, static_cast<int>(args.positions),
                static_cast<int>(args.channels), lanes, args.grad_mode == GradMode::kAccumulate});
}

}  // namespace

void attention_weights(CudaStream stream, const AttentionWeightsArgs& args) {
  const Rehearsed rehearsed(stream, "attention_weights", traffic(args));
  check(args.dtype == DType::f32 || args.dtype == DType::f64, "attention_weights: maps are f32 or f64");
  if (args.dtype == DType::f64) {
    weights<double>(stream, args);
  } else {
    weights<float>(stream, args);
  }
}

void attention_pool(CudaStream stream, const AttentionPoolArgs& args) {
  const Rehearsed rehearsed(stream, "attention_pool", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    if (aligned16(args.features) && args.channels % Vec<T>::kWidth == 0) {
      pool<T, Vec<T>::kWidth>(stream, args);
    } else {
      pool<T, 1>(stream, args);
    }
  });
}

void attention_pool_backward(CudaStream stream, const AttentionPoolBackwardArgs& args) {
  const Rehearsed rehearsed(stream, "attention_pool_backward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    const bool aligned = aligned16(args.relu ? args.features : nullptr) && aligned16(args.grad_pooled) &&
                         aligned16(args.grad_features);
    if (aligned && args.channels % Vec<T>::kWidth == 0) {
      spread<T, Vec<T>::kWidth>(stream, args);
    } else {
      spread<T, 1>(stream, args);
    }
  });
}

}  // namespace cohort::kernels
