// Mapping: 8 lanes per position up to 64 channels, else a warp; 256 threads a block. A lane reads 16 bytes of
// each map at a time (single values where a pointer or the row is not 16-byte aligned), keeps the three
// products, and the lanes of a position add them by shuffles in a fixed order. The backward pass reads a
// position's two vectors a second time, out of L1: 8 warps of 2048 channels and 2 maps are 64 KiB in bf16.
//
// Shared memory: none. Bytes: kernels/pixel_cosine.h. Registers (sm_90): forward 48, backward 48 (f32,
// f64), 58 (bf16), no spill.
#include <cmath>

#include "kernels/base/rehearsal.h"
#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/simt.cuh"
#include "kernels/cuda/vec.cuh"
#include "kernels/pixel_cosine.h"

namespace cohort::kernels {
namespace {

constexpr int kThreads = 256;

// kWidth consecutive values as accumulators: one 16-byte access, or one value.
template <class T, int kWidth>
struct Values {
  Accumulator<T> v[kWidth];

  __device__ static Values load(const T* p) {
    Values r;
    if constexpr (kWidth > 1) {
      const Vec<T> raw = Vec<T>::load(p);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) r.v[i] = raw[i];
    } else {
      r.v[0] = static_cast<Accumulator<T>>(*p);
    }
    return r;
  }
  __device__ void store(T* p) const {
    if constexpr (kWidth > 1) {
      Vec<T> raw;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) raw[i] = v[i];
      raw.store(p);
    } else {
      *p = static_cast<T>(v[0]);
    }
  }
};

template <class A>
struct Products {
  A ab, norm_a, norm_b;

  __device__ A norms() const { return norm_a * norm_b; }
  __device__ A similarity() const {
    constexpr A kEps = static_cast<A>(kCosineEpsilon);
    return ab / (norms() < kEps ? kEps : norms());  // a NaN norm stays NaN
  }
};

template <class T, int kLanes, int kWidth, class A = Accumulator<T>>
__device__ Products<A> products(const T* a, const T* b, int channels, int lane) {
  A ab = 0, aa = 0, bb = 0;
#pragma unroll 4
  for (int c = lane * kWidth; c < channels; c += kLanes * kWidth) {
    const auto x = Values<T, kWidth>::load(a + c);
    const auto y = Values<T, kWidth>::load(b + c);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      ab = std::fma(x.v[i], y.v[i], ab);
      aa = std::fma(x.v[i], x.v[i], aa);
      bb = std::fma(y.v[i], y.v[i], bb);
    }
  }
  return {warp_sum<kLanes>(ab), std::sqrt(warp_sum<kLanes>(aa)), std::sqrt(warp_sum<kLanes>(bb))};
}

// The position of this thread's lanes. Beyond the last position they compute the last one again, since a
// shuffle needs the whole warp, and write nothing.
template <int kLanes>
__device__ std::int64_t position_of_thread() {
  return (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kLanes;
}

template <class T, int kLanes, int kWidth>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const T* a, const T* b, Accumulator<T>* similarity, std::int64_t positions, int channels) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const std::int64_t n = position_of_thread<kLanes>();
  const std::int64_t at = (n < positions ? n : positions - 1) * channels;
  const auto p = products<T, kLanes, kWidth>(a + at, b + at, channels, lane);
  if (lane == 0 && n < positions) similarity[n] = p.similarity();
}

// grad (+)= k_other other + k_own own
template <class T, int kWidth, class A = Accumulator<T>>
__device__ void write_gradient(const Values<T, kWidth>& own, const Values<T, kWidth>& other, A k_own,
                               A k_other, T* grad, bool accumulate) {
  Values<T, kWidth> g;
  if (accumulate) {
    g = Values<T, kWidth>::load(grad);
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) g.v[i] = 0;
  }
#pragma unroll
  for (int i = 0; i < kWidth; ++i) g.v[i] += std::fma(k_other, other.v[i], k_own * own.v[i]);
  g.store(grad);
}

template <class T>
struct Backward {
  using A = Accumulator<T>;
  const T* a;
  const T* b;
  const A* grad_similarity;
  T* grad_a;
  T* grad_b;
  bool accumulate_a, accumulate_b;
  std::int64_t positions;
  int channels;
};

template <class T, int kLanes, int kWidth>
__global__ void __launch_bounds__(kThreads) backward_kernel(Backward<T> job) {
  using A = Accumulator<T>;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const std::int64_t n = position_of_thread<kLanes>();
  const std::int64_t last = n < job.positions ? n : job.positions - 1;
  const std::int64_t at = last * job.channels;
  const auto p = products<T, kLanes, kWidth>(job.a + at, job.b + at, job.channels, lane);
  if (n >= job.positions) return;
  const bool flat = p.norms() <= static_cast<A>(kCosineEpsilon);
  const A k = flat ? A(0) : job.grad_similarity[n] / p.norms();
  const A s = p.similarity();
  const A k_a = flat ? A(0) : -k * s * (p.norm_b / p.norm_a);
  const A k_b = flat ? A(0) : -k * s * (p.norm_a / p.norm_b);
#pragma unroll 2
  for (int c = lane * kWidth; c < job.channels; c += kLanes * kWidth) {
    const auto x = Values<T, kWidth>::load(job.a + at + c);
    const auto y = Values<T, kWidth>::load(job.b + at + c);
    if (job.grad_a != nullptr) write_gradient(x, y, k_a, k, job.grad_a + at + c, job.accumulate_a);
    if (job.grad_b != nullptr) write_gradient(y, x, k_b, k, job.grad_b + at + c, job.accumulate_b);
  }
}

// Calls f with the number of lanes and the width of an access as constants.
template <class T, class F>
void with_shape(std::int64_t channels, bool aligned, F&& f) {
  constexpr int kVector = Vec<T>::kWidth;
  const auto with_width = [&]<int kLanes>(std::integral_constant<int, kLanes> lanes) {
    if (aligned && channels % kVector == 0) {
      f(lanes, std::integral_constant<int, kVector>{});
    } else {
      f(lanes, std::integral_constant<int, 1>{});
    }
  };
  if (channels <= 64) {
    with_width(std::integral_constant<int, 8>{});
  } else {
    with_width(std::integral_constant<int, 32>{});
  }
}

template <int kLanes>
simt::LaunchConfig config(CudaStream stream, std::int64_t positions) {
  return {.grid = static_cast<unsigned>((positions * kLanes + kThreads - 1) / kThreads),
          .block = kThreads,
          .stream = stream};
}

}  // namespace

void pixel_cosine(CudaStream stream, const PixelCosineArgs& args) {
  const Rehearsed rehearsed(stream, "pixel_cosine", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    with_shape<T>(args.channels, aligned16(args.a) && aligned16(args.b),
                  [&]<int kLanes, int kWidth>(std::integral_constant<int, kLanes>,
                                              std::integral_constant<int, kWidth>) {
                    simt::launch(forward_kernel<T, kLanes, kWidth>, config<kLanes>(stream, args.positions),
                                 static_cast<const T*>(args.a), static_cast<const T*>(args.b),
                                 static_cast<Accumulator<T>*>(args.similarity), args.positions,
                                 static_cast<int>(args.channels));
                  });
  });
}

void pixel_cosine_backward(CudaStream stream, const PixelCosineBackwardArgs& args) {
  const Rehearsed rehearsed(stream, "pixel_cosine_backward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    const Backward<T> job{static_cast<const T*>(args.a),
                          static_cast<const T*>(args.b),
                          static_cast<const Accumulator<T>*>(args.grad_similarity),
                          static_cast<T*>(args.grad_a),
                          static_cast<T*>(args.grad_b),
                          args.grad_a_mode == GradMode::kAccumulate,
                          args.grad_b_mode == GradMode::kAccumulate,
                          args.positions,
                          static_cast<int>(args.channels)};
    const bool aligned =
        aligned16(args.a) && aligned16(args.b) && aligned16(args.grad_a) && aligned16(args.grad_b);
    with_shape<T>(args.channels, aligned,
                  [&]<int kLanes, int kWidth>(std::integral_constant<int, kLanes>,
                                              std::integral_constant<int, kWidth>) {
                    simt::launch(backward_kernel<T, kLanes, kWidth>, config<kLanes>(stream, args.positions),
                                 job);
                  });
  });
}

}  // namespace cohort::kernels
