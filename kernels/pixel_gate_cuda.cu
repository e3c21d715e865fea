// Mapping: `lanes` threads (a power of two, at most 32) per pixel, 256 a block. A thread reads 16 bytes of
// channels at a time (single values where a pointer or the row is not 16-byte aligned); the lanes of a pixel
// add their products by shuffles in a fixed order. Every lane computes the gate of its pixel by itself.
//
// Shared memory: none. Bytes: kernels/pixel_gate.h. Registers (sm_90): 32 at most, no spill.
#include "kernels/base/rehearsal.h"
#include "kernels/base/sigmoid.h"
#include "kernels/cuda/lanes.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/simt.cuh"
#include "kernels/pixel_gate.h"

namespace cohort::kernels {
namespace {

constexpr int kThreads = 256;

template <class T>
struct Forward {
  const T* x;
  const T* scores;
  T* y;
  std::int64_t positions;
  int channels, lanes;
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) forward_kernel(Forward<T> job) {
  const std::int64_t n =
      static_cast<std::int64_t>(blockIdx.x) * (kThreads / job.lanes) + threadIdx.x / job.lanes;
  if (n >= job.positions) return;
  const auto gate = sigmoid(to_float(job.scores[n]));
  for (int c = static_cast<int>(threadIdx.x) % job.lanes * kWidth; c < job.channels;
       c += job.lanes * kWidth) {
    auto v = Pack<T, kWidth>::load(job.x + n * job.channels + c);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) v[k] *= gate;
    v.store(job.y + n * job.channels + c);
  }
}

template <class T>
struct Backward {
  const T* x;
  const T* scores;
  const T* grad_y;
  T* grad_x;       // may be null
  T* grad_scores;  // may be null
  bool accumulate_x, accumulate_scores;
  std::int64_t positions;
  int channels, lanes;
};

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) backward_kernel(Backward<T> job) {
  using A = Accumulator<T>;
  const int lane = static_cast<int>(threadIdx.x) % job.lanes;
  const std::int64_t n =
      static_cast<std::int64_t>(blockIdx.x) * (kThreads / job.lanes) + threadIdx.x / job.lanes;
  // Beyond the last pixel nothing is done, but a shuffle needs the whole warp.
  const bool inside = n < job.positions;
  const A gate = inside ? sigmoid(to_float(job.scores[n])) : A(0);
  A sum = 0;
  for (int c = lane * kWidth; inside && c < job.channels; c += job.lanes * kWidth) {
    const std::int64_t at = n * job.channels + c;
    const auto x = Pack<T, kWidth>::load(job.x + at);
    const auto g = Pack<T, kWidth>::load(job.grad_y + at);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum = std::fma(g[k], x[k], sum);
    if (job.grad_x == nullptr) continue;
    Pack<T, kWidth> grad;
    if (job.accumulate_x) grad = Pack<T, kWidth>::load(job.grad_x + at);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) grad[k] = job.accumulate_x ? std::fma(gate, g[k], grad[k]) : gate * g[k];
    grad.store(job.grad_x + at);
  }
  for (int step = job.lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kFullMask, sum, step);
  if (!inside || lane != 0 || job.grad_scores == nullptr) return;
  const A own = gate * (A(1) - gate) * sum;
  job.grad_scores[n] = from_float<T>(job.accumulate_scores ? to_float(job.grad_scores[n]) + own : own);
}

simt::LaunchConfig config(CudaStream stream, std::int64_t positions, int lanes) {
  const int pixels = kThreads / lanes;
  return {
      .grid = static_cast<unsigned>((positions + pixels - 1) / pixels), .block = kThreads, .stream = stream};
}

template <class T, int kWidth>
void forward(CudaStream stream, const PixelGateArgs& args) {
  const int lanes = lanes_for(args.channels, kWidth);
  simt::launch(forward_kernel<T, kWidth>, config(stream, args.positions, lanes),
               Forward<T>{static_cast<const T*>(args.x), static_cast<const T*>(args.scores),
                          static_cast<T*>(args.y), args.positions, static_cast<int>(args.channels), lanes});
}

template <class T, int kWidth>
void backward(CudaStream stream, const PixelGateBackwardArgs& args) {
  const int lanes = lanes_for(args.channels, kWidth);
  simt::launch(backward_kernel<T, kWidth>, config(stream, args.positions, lanes),
               Backward<T>{static_cast<const T*>(args.x), static_cast<const T*>(args.scores),
                           static_cast<const T*>(args.grad_y), static_cast<T*>(args.grad_x),
                           static_cast<T*>(args.grad_scores), args.grad_x_mode == GradMode::kAccumulate,
                           args.grad_scores_mode == GradMode::kAccumulate, args.positions,
                           static_cast<int>(args.channels), lanes});
}

}  // namespace

void pixel_gate(CudaStream stream, const PixelGateArgs& args) {
  const Rehearsed rehearsed(stream, "pixel_gate", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    if (all_aligned16({args.x, args.y}) && args.channels % Vec<T>::kWidth == 0) {
      forward<T, Vec<T>::kWidth>(stream, args);
    } else {
      forward<T, 1>(stream, args);
    }
  });
}

void pixel_gate_backward(CudaStream stream, const PixelGateBackwardArgs& args) {
  const Rehearsed rehearsed(stream, "pixel_gate_backward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    if (all_aligned16({args.x, args.grad_y, args.grad_x}) && args.channels % Vec<T>::kWidth == 0) {
      backward<T, Vec<T>::kWidth>(stream, args);
    } else {
      backward<T, 1>(stream, args);
    }
  });
}

}  // namespace cohort::kernels
