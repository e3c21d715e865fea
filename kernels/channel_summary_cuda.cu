// Forward: a block of 256 threads takes kPasses runs of pixels of one sample. Its gate lies in shared memory;
// `lanes` threads (a power of two, at most 32) hold 16 bytes of a pixel's channels at a time, and add and
// compare by shuffles in a fixed order. The first block of a sample writes the gate out.
//
// Backward: a block per sample and per tile of channels. `lanes` threads hold 16 bytes of channels each, and
// 256 / lanes groups of them take every (256 / lanes)-th pixel: they write grad_x as they go, and their
// partial sums of grad_scores meet in shared memory and are added in the order of the groups.
//
// Where a pointer or a row of channels is not 16-byte aligned, a thread holds one channel instead.
// Shared memory: forward channels sizeof(A) (at most 48 KiB without asking: 12,288 channels), backward 8 KiB
// (bf16), 4 (f32, f64). Bytes: kernels/channel_summary.h. Registers (sm_90): forward 32 at most, backward 40
// (f32), 56 (bf16), no spill.
#include <cmath>
#include <limits>

#include "kernels/base/rehearsal.h"
#include "kernels/base/sigmoid.h"
#include "kernels/channel_summary.h"
#include "kernels/cuda/lanes.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/simt.cuh"

namespace cohort::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kPasses = 8;

template <class T>
struct Forward {
  using A = Accumulator<T>;
  const T* x;
  const T* scores;
  A* gate;
  T* summary;
  std::int32_t* argmax;
  int positions, channels;
  int lanes;  // threads of a pixel
  int tiles;  // blocks of a sample
};

// Whether b takes the place of a: larger, or NaN; of equals the lower channel.
template <class A>
__device__ bool takes_over(ValueIndex<A> a, ValueIndex<A> b) {
  const bool nan_a = a.value != a.value, nan_b = b.value != b.value;
  if (nan_a || nan_b) return nan_b && (!nan_a || b.index < a.index);
  return b.value > a.value || (b.value == a.value && b.index < a.index);
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) forward_kernel(Forward<T> job) {
  using A = Accumulator<T>;
  SIMT_SHARED_DYN(raw);
  A* const gate = reinterpret_cast<A*>(raw);
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t n = blockIdx.x / static_cast<unsigned>(job.tiles);
  const int tile = static_cast<int>(blockIdx.x % static_cast<unsigned>(job.tiles));
  for (int c = thread; c < job.channels; c += kThreads) {
    const A g = sigmoid(to_float(job.scores[n * job.channels + c]));
    gate[c] = g;
    if (tile == 0) job.gate[n * job.channels + c] = g;
  }
  __syncthreads();
  const int groups = kThreads / job.lanes, lane = thread % job.lanes;
  for (int pass = 0; pass < kPasses; ++pass) {
    const int p = (tile * kPasses + pass) * groups + thread / job.lanes;
    // Beyond the last pixel it is computed again, since a shuffle needs the whole warp, and not written.
    const std::int64_t at = n * job.positions + (p < job.positions ? p : job.positions - 1);
    A sum = 0;
    ValueIndex<A> best{-std::numeric_limits<A>::infinity(), std::numeric_limits<int>::max()};
    for (int c = lane * kWidth; c < job.channels; c += job.lanes * kWidth) {
      const auto x = Pack<T, kWidth>::load(job.x + at * job.channels + c);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const A v = gate[c + k] * x[k];
        sum += v;
        const ValueIndex<A> item{v, c + k};
        if (takes_over(best, item)) best = item;
      }
    }
    for (int step = job.lanes / 2; step > 0; step /= 2) {
      sum += __shfl_xor_sync(kFullMask, sum, step);
      const ValueIndex<A> other{__shfl_xor_sync(kFullMask, best.value, step),
                                __shfl_xor_sync(kFullMask, best.index, step)};
      if (takes_over(best, other)) best = other;
    }
    if (lane != 0 || p >= job.positions) continue;
    job.summary[2 * at] = from_float<T>(sum / static_cast<A>(job.channels));
    job.summary[2 * at + 1] = from_float<T>(best.value);
    job.argmax[at] = best.index;
  }
}

template <class T>
struct Backward {
  using A = Accumulator<T>;
  const T* x;
  const A* gate;
  const std::int32_t* argmax;
  const T* grad_summary;
  T* grad_x;       // may be null
  T* grad_scores;  // may be null
  bool accumulate_x, accumulate_scores;
  int positions, channels;
  int lanes;  // threads along the channels
  int tiles;  // blocks of a sample
};

// Pixels of one thread's kWidth channels from c on; the sums of x d.
template <class T, int kWidth>
__device__ void walk_pixels(const Backward<T>& job, std::int64_t n, int c, Accumulator<T> (&sum)[kWidth]) {
  using A = Accumulator<T>;
  const int groups = kThreads / job.lanes;
  A gate[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) gate[k] = job.gate[n * job.channels + c + k];
  const A share = A(1) / static_cast<A>(job.channels);
  for (int p = static_cast<int>(threadIdx.x) / job.lanes; p < job.positions; p += groups) {
    const std::int64_t at = n * job.positions + p;
    const A of_mean = to_float(job.grad_summary[2 * at]) * share;
    const A of_max = to_float(job.grad_summary[2 * at + 1]);
    const int best = job.argmax[at] - c;
    const auto x = Pack<T, kWidth>::load(job.x + at * job.channels + c);
    Pack<T, kWidth> grad;
    const bool add = job.grad_x != nullptr && job.accumulate_x;
    if (add) grad = Pack<T, kWidth>::load(job.grad_x + at * job.channels + c);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const A d = k == best ? of_mean + of_max : of_mean;
      sum[k] = std::fma(x[k], d, sum[k]);
      grad[k] = add ? std::fma(gate[k], d, grad[k]) : gate[k] * d;
    }
    if (job.grad_x != nullptr) grad.store(job.grad_x + at * job.channels + c);
  }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) backward_kernel(Backward<T> job) {
  using A = Accumulator<T>;
  SIMT_SHARED(A, partial, [kWidth][kThreads]);
  const int thread = static_cast<int>(threadIdx.x);
  const int groups = kThreads / job.lanes;
  const std::int64_t n = blockIdx.x / static_cast<unsigned>(job.tiles);
  const int tile = static_cast<int>(blockIdx.x % static_cast<unsigned>(job.tiles)) * job.lanes * kWidth;
  const int c = tile + thread % job.lanes * kWidth;
  A sum[kWidth] = {};
  if (c < job.channels) walk_pixels<T, kWidth>(job, n, c, sum);
  if (job.grad_scores == nullptr) return;  // all threads
#pragma unroll
  for (int k = 0; k < kWidth; ++k) partial[k][thread] = sum[k];
  __syncthreads();
  for (int i = thread; i < job.lanes * kWidth && tile + i < job.channels; i += kThreads) {
    A total = 0;
    for (int g = 0; g < groups; ++g) total += partial[i % kWidth][g * job.lanes + i / kWidth];
    const std::int64_t at = n * job.channels + tile + i;
    const A gate = job.gate[at];
    const A grad = gate * (A(1) - gate) * total;
    job.grad_scores[at] = from_float<T>(job.accumulate_scores ? to_float(job.grad_scores[at]) + grad : grad);
  }
}

int blocks(std::int64_t items, std::int64_t per_block) {
  return static_cast<int>((items + per_block - 1) / per_block);
}

template <class T, int kWidth>
void forward(CudaStream stream, const ChannelSummaryArgs& args) {
  using A = Accumulator<T>;
  const ChannelSummaryShape& s = args.shape;
  const int lanes = lanes_for(s.channels, kWidth);
  const int tiles = blocks(s.positions, kThreads / lanes * kPasses);
  simt::launch(forward_kernel<T, kWidth>,
               {.grid = static_cast<unsigned>(s.samples) * static_cast<unsigned>(tiles),
                .block = kThreads,
                .shared = static_cast<std::size_t>(s.channels) * sizeof(A),
                .stream = stream},
               Forward<T>{static_cast<const T*>(args.x), static_cast<const T*>(args.scores),
                          static_cast<A*>(args.gate), static_cast<T*>(args.summary), args.argmax,
                          static_cast<int>(s.positions), static_cast<int>(s.channels), lanes, tiles});
}

template <class T, int kWidth>
void backward(CudaStream stream, const ChannelSummaryBackwardArgs& args) {
  const ChannelSummaryShape& s = args.shape;
  const int lanes = lanes_for(s.channels, kWidth);
  const int tiles = blocks(s.channels, lanes * kWidth);
  simt::launch(
      backward_kernel<T, kWidth>,
      {.grid = static_cast<unsigned>(s.samples) * static_cast<unsigned>(tiles),
       .block = kThreads,
       .stream = stream},
      Backward<T>{static_cast<const T*>(args.x), static_cast<const Accumulator<T>*>(args.gate), args.argmax,
                  static_cast<const T*>(args.grad_summary), static_cast<T*>(args.grad_x),
                  static_cast<T*>(args.grad_scores), args.grad_x_mode == GradMode::kAccumulate,
                  args.grad_scores_mode == GradMode::kAccumulate, static_cast<int>(s.positions),
                  static_cast<int>(s.channels), lanes, tiles});
}

}  // namespace

void channel_summary(CudaStream stream, const ChannelSummaryArgs& args) {
  const Rehearsed rehearsed(stream, "channel_summary", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    if (aligned16(args.x) && args.shape.channels % Vec<T>::kWidth == 0) {
      forward<T, Vec<T>::kWidth>(stream, args);
    } else {
      forward<T, 1>(stream, args);
    }
  });
}

void channel_summary_backward(CudaStream stream, const ChannelSummaryBackwardArgs& args) {
  const Rehearsed rehearsed(stream, "channel_summary_backward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    if (all_aligned16({args.x, args.grad_x}) && args.shape.channels % Vec<T>::kWidth == 0) {
      backward<T, Vec<T>::kWidth>(stream, args);
    } else {
      backward<T, 1>(stream, args);
    }
  });
}

}  // namespace cohort::kernels
