// Threads: 256 a block; each thread computes 16 bytes of channels of one output pixel (one channel where a
// row or a pointer is not aligned to 16 bytes) and strides over the rest; backward kernels gather, so that
// nothing is added twice at once. global_avg_pool: a block sums a slice of channels of one image, its threads
// take turns over the pixels and their sums are added in the order of the threads (shared memory: at most 8
// KiB). Bytes moved: as the header says. Registers (ptxas, sm_90): at most 70; no spill.
#include <limits>
#include <type_traits>

#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/pack.cuh"
#include "kernels/pool.h"
#include "kernels/pool_axis.h"

namespace cohort::kernels {
namespace {

using Index = std::int64_t;

constexpr int kBlock = 256;
constexpr int kMinBlocks =
    2;  // up to 128 registers a thread: ptxas, left to itself, spills 8 bytes for sm_80
constexpr Index kMostBlocks = 1 << 16;
constexpr Index kRun = 1024;  // pixels per summation chain of global_avg_pool

// W channels of one pixel of a map (N, height, width, C), found from the number of its first element.
struct Pixel {
  __device__ Pixel(Index at, Index height, Index width, Index channels) {
    const Index pixel = quotient(at, channels);
    const Index line = quotient(pixel, width);
    c = at - pixel * channels;
    column = pixel - line * width;
    n = quotient(line, height);
    row = line - n * height;
  }
  Index n, row, column, c;
};

// Elements [first, count) in steps of `step`, W at a time.
template <int W>
struct Walk {
  __device__ Walk()
      : first((static_cast<Index>(blockIdx.x) * kBlock + threadIdx.x) * W),
        step(static_cast<Index>(gridDim.x) * kBlock * W) {}
  Index first, step;
};

template <class T, int W, bool kAccumulate>
__device__ void write(T* out, Pack<T, W>& value) {
  if constexpr (kAccumulate) {
    const Pack<T, W> old = Pack<T, W>::load(out);
#pragma unroll
    for (int k = 0; k < W; ++k) value[k] += old[k];
  }
  value.store(out);
}

template <class T, int W>
__global__ __launch_bounds__(kBlock, kMinBlocks) void max_forward_kernel(PoolShape s, PoolAxes axes,
                                                                         const T* x, T* y,
                                                                         std::int32_t* argmax) {
  const Index count = s.batch * s.out_height * s.out_width * s.channels;
  const Walk<W> walk;
  for (Index at = walk.first; at < count; at += walk.step) {
    const Pixel p(at, s.out_height, s.out_width, s.channels);
    const Index top = axes.vertical.begin(p.row), bottom = axes.vertical.end(p.row);
    const Index left = axes.horizontal.begin(p.column), right = axes.horizontal.end(p.column);
    Pack<T, W> best{};
    std::int32_t where[W] = {};
    for (Index h = top; h < bottom; ++h) {
      for (Index w = left; w < right; ++w) {
        const Pack<T, W> v = Pack<T, W>::load(x + ((p.n * s.height + h) * s.width + w) * s.channels + p.c);
        const auto position = static_cast<std::int32_t>(h * s.width + w);
        const bool first = h == top && w == left;
#pragma unroll
        for (int k = 0; k < W; ++k) {
          // NaN wins, and the first one stays.
          const bool take = first || v[k] > best[k] || (v[k] != v[k] && best[k] == best[k]);
          best[k] = take ? v[k] : best[k];
          where[k] = take ? position : where[k];
        }
      }
    }
    best.store(y + at);
    if (argmax == nullptr) continue;
#pragma unroll
    for (int k = 0; k < W; ++k) argmax[at + k] = where[k];
  }
}

template <class T, int W, bool kAccumulate>
__global__ __launch_bounds__(kBlock,
                             kMinBlocks) void max_backward_kernel(PoolShape s, PoolAxes axes, const T* grad_y,
                                                                  const std::int32_t* argmax, T* grad_x) {
  const Index count = s.batch * s.height * s.width * s.channels;
  const Walk<W> walk;
  for (Index at = walk.first; at < count; at += walk.step) {
    const Pixel p(at, s.height, s.width, s.channels);
    const auto position = static_cast<std::int32_t>(p.row * s.width + p.column);
    Pack<T, W> sum{};
    for (Index i = axes.vertical.first(p.row); i < axes.vertical.last(p.row); ++i) {
      for (Index j = axes.horizontal.first(p.column); j < axes.horizontal.last(p.column); ++j) {
        const Index from = ((p.n * s.out_height + i) * s.out_width + j) * s.channels + p.c;
        const Pack<T, W> g = Pack<T, W>::load(grad_y + from);
#pragma unroll
        for (int k = 0; k < W; ++k) sum[k] += argmax[from + k] == position ? g[k] : 0;
      }
    }
    write<T, W, kAccumulate>(grad_x + at, sum);
  }
}

template <class T, int W>
__global__ __launch_bounds__(kBlock) void average_forward_kernel(PoolShape s, PoolAxes axes, const T* x,
                                                                 T* y) {
  const Index count = s.batch * s.out_height * s.out_width * s.channels;
  const Walk<W> walk;
  for (Index at = walk.first; at < count; at += walk.step) {
    const Pixel p(at, s.out_height, s.out_width, s.channels);
    Pack<T, W> sum{};
    for (Index h = axes.vertical.begin(p.row); h < axes.vertical.end(p.row); ++h) {
      for (Index w = axes.horizontal.begin(p.column); w < axes.horizontal.end(p.column); ++w) {
        const Pack<T, W> v = Pack<T, W>::load(x + ((p.n * s.height + h) * s.width + w) * s.channels + p.c);
#pragma unroll
        for (int k = 0; k < W; ++k) sum[k] += v[k];
      }
    }
    const auto size =
        static_cast<Accumulator<T>>(axes.vertical.divisor(p.row) * axes.horizontal.divisor(p.column));
#pragma unroll
    for (int k = 0; k < W; ++k) sum[k] /= size;
    sum.store(y + at);
  }
}

template <class T, int W, bool kAccumulate>
__global__ __launch_bounds__(kBlock) void average_backward_kernel(PoolShape s, PoolAxes axes, const T* grad_y,
                                                                  T* grad_x) {
  const Index count = s.batch * s.height * s.width * s.channels;
  const Walk<W> walk;
  for (Index at = walk.first; at < count; at += walk.step) {
    const Pixel p(at, s.height, s.width, s.channels);
    Pack<T, W> sum{};
    for (Index i = axes.vertical.first(p.row); i < axes.vertical.last(p.row); ++i) {
      for (Index j = axes.horizontal.first(p.column); j < axes.horizontal.last(p.column); ++j) {
        const auto size = static_cast<Accumulator<T>>(axes.vertical.divisor(i) * axes.horizontal.divisor(j));
        const Pack<T, W> g =
            Pack<T, W>::load(grad_y + ((p.n * s.out_height + i) * s.out_width + j) * s.channels + p.c);
#pragma unroll
        for (int k = 0; k < W; ++k) sum[k] += g[k] / size;
      }
    }
    write<T, W, kAccumulate>(grad_x + at, sum);
  }
}

// Block (x, y): slice y of the channels of image x. `lanes` threads side by side read one pixel.
template <class T, int W>
__global__ __launch_bounds__(kBlock) void global_forward_kernel(PoolShape s, int lanes, const T* x, T* y) {
  using A = Accumulator<T>;
  SIMT_SHARED(A, sums, [W][kBlock]);
  const int turns = kBlock / lanes;  // pixels at once
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const Index pixels = s.height * s.width;
  const Index c = (static_cast<Index>(blockIdx.y) * lanes + lane) * W;
  const Index image = blockIdx.x;
  const T* const from = x + image * pixels * s.channels + c;
  Pack<T, W> total{};
  for (Index p = static_cast<int>(threadIdx.x) / lanes; c < s.channels && p < pixels;) {
    Pack<T, W> run{};
    for (Index i = 0; i < kRun && p < pixels; ++i, p += turns) {
      const Pack<T, W> v = Pack<T, W>::load(from + p * s.channels);
#pragma unroll
      for (int k = 0; k < W; ++k) run[k] += v[k];
    }
#pragma unroll
    for (int k = 0; k < W; ++k) total[k] += run[k];
  }
#pragma unroll
  for (int k = 0; k < W; ++k) sums[k][threadIdx.x] = total[k];
  __syncthreads();
  if (static_cast<int>(threadIdx.x) >= lanes || c >= s.channels) return;
  for (int t = 1; t < turns; ++t) {
#pragma unroll
    for (int k = 0; k < W; ++k) total[k] += sums[k][t * lanes + lane];
  }
#pragma unroll
  for (int k = 0; k < W; ++k) total[k] /= static_cast<A>(pixels);
  total.store(y + image * s.channels + c);
}

template <class T, int W, bool kAccumulate>
__global__ __launch_bounds__(kBlock) void global_backward_kernel(PoolShape s, const T* grad_y, T* grad_x) {
  const Index pixels = s.height * s.width;
  const Index count = s.batch * pixels * s.channels;
  const Walk<W> walk;
  for (Index at = walk.first; at < count; at += walk.step) {
    const Index pixel = quotient(at, s.channels);
    const Index c = at - pixel * s.channels;
    Pack<T, W> share = Pack<T, W>::load(grad_y + quotient(pixel, pixels) * s.channels + c);
#pragma unroll
    for (int k = 0; k < W; ++k) share[k] /= static_cast<Accumulator<T>>(pixels);
    write<T, W, kAccumulate>(grad_x + at, share);
  }
}

// f(std::integral_constant<int, W>, config) for `count` elements.
template <class T, class F>
void for_width(CudaStream stream, Index channels, Index count, std::initializer_list<const void*> pointers,
               F&& f) {
  constexpr int kWide = Vec<T>::kWidth;
  const bool wide = channels % kWide == 0 && all_aligned16(pointers);
  const simt::LaunchConfig config{
      .grid = grid_size(count, kBlock * (wide ? kWide : 1), kMostBlocks), .block = kBlock, .stream = stream};
  if (wide) return f(std::integral_constant<int, kWide>{}, config);
  f(std::integral_constant<int, 1>{}, config);
}

template <class F>
void for_mode(GradMode mode, F&& f) {
  if (mode == GradMode::kAccumulate) return f(std::true_type{});
  f(std::false_type{});
}

Index count_x(const PoolShape& s) {
  return s.batch * s.height * s.width * s.channels;
}
Index count_y(const PoolShape& s) {
  return s.batch * s.out_height * s.out_width * s.channels;
}

template <class T>
void average_forward(CudaStream stream, const PoolShape& s, const PoolAxes& axes, const void* x, void* y) {
  for_width<T>(stream, s.channels, count_y(s), {x, y}, [&](auto width, const simt::LaunchConfig& config) {
    simt::launch(average_forward_kernel<T, decltype(width)::value>, config, s, axes, static_cast<const T*>(x),
                 static_cast<T*>(y));
  });
}

template <class T>
void average_backward(CudaStream stream, const PoolShape& s, const PoolAxes& axes, const void* grad_y,
                      void* grad_x, GradMode mode) {
  for_width<T>(
      stream, s.channels, count_x(s), {grad_y, grad_x}, [&](auto width, const simt::LaunchConfig& config) {
        for_mode(mode, [&](auto accumulate) {
          simt::launch(average_backward_kernel<T, decltype(width)::value, decltype(accumulate)::value>,
                       config, s, axes, static_cast<const T*>(grad_y), static_cast<T*>(grad_x));
        });
      });
}

template <class T>
void global_forward(CudaStream stream, const AdaptiveAvgPoolForwardArgs& args) {
  const PoolShape& s = args.shape;
  check(s.height * s.width > 0, "global_avg_pool: empty map");
  for_width<T>(stream, s.channels, count_x(s), {args.x, args.y}, [&](auto width, simt::LaunchConfig config) {
    constexpr int kW = decltype(width)::value;
    const int most = kW == 1 ? 32 : 8;  // a line of 128 bytes
    int lanes = 1;
    while (lanes < most && lanes * kW < s.channels) lanes *= 2;
    config.grid = dim3(static_cast<unsigned>(s.batch), grid_size(s.channels, lanes * kW));
    simt::launch(global_forward_kernel<T, kW>, config, s, lanes, static_cast<const T*>(args.x),
                 static_cast<T*>(args.y));
  });
}

template <class T>
void global_backward(CudaStream stream, const AdaptiveAvgPoolBackwardArgs& args) {
  const PoolShape& s = args.shape;
  check(s.height * s.width > 0, "global_avg_pool: empty map");
  for_width<T>(stream, s.channels, count_x(s), {args.grad_y, args.grad_x},
               [&](auto width, const simt::LaunchConfig& config) {
                 for_mode(args.mode, [&](auto accumulate) {
                   simt::launch(
                       global_backward_kernel<T, decltype(width)::value, decltype(accumulate)::value>, config,
                       s, static_cast<const T*>(args.grad_y), static_cast<T*>(args.grad_x));
                 });
               });
}

template <class T>
void max_forward(CudaStream stream, const MaxPoolForwardArgs& args) {
  const PoolShape& s = args.shape;
  check(s.height * s.width <= std::numeric_limits<std::int32_t>::max(),
        "max_pool: map too large for i32 positions");
  const PoolAxes axes = window_axes(s, args.window, false);
  for_width<T>(stream, s.channels, count_y(s), {args.x, args.y},
               [&](auto width, const simt::LaunchConfig& config) {
                 simt::launch(max_forward_kernel<T, decltype(width)::value>, config, s, axes,
                              static_cast<const T*>(args.x), static_cast<T*>(args.y), args.argmax);
               });
}

template <class T>
void max_backward(CudaStream stream, const MaxPoolBackwardArgs& args) {
  const PoolShape& s = args.shape;
  const PoolAxes axes = window_axes(s, args.window, false);
  for_width<T>(stream, s.channels, count_x(s), {args.grad_y, args.grad_x},
               [&](auto width, const simt::LaunchConfig& config) {
                 for_mode(args.mode, [&](auto accumulate) {
                   simt::launch(max_backward_kernel<T, decltype(width)::value, decltype(accumulate)::value>,
                                config, s, axes, static_cast<const T*>(args.grad_y), args.argmax,
                                static_cast<T*>(args.grad_x));
                 });
               });
}

}  // namespace

void max_pool_forward(CudaStream stream, const MaxPoolForwardArgs& args) {
  const Rehearsed rehearsed(stream, "max_pool_forward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { max_forward<T>(stream, args); });
}

void max_pool_backward(CudaStream stream, const MaxPoolBackwardArgs& args) {
  const Rehearsed rehearsed(stream, "max_pool_backward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { max_backward<T>(stream, args); });
}

void avg_pool_forward(CudaStream stream, const AvgPoolForwardArgs& args) {
  const Rehearsed rehearsed(stream, "avg_pool_forward", traffic(args));
  const PoolAxes axes = window_axes(args.shape, args.window, args.count_include_pad);
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    average_forward<T>(stream, args.shape, axes, args.x, args.y);
  });
}

void avg_pool_backward(CudaStream stream, const AvgPoolBackwardArgs& args) {
  const Rehearsed rehearsed(stream, "avg_pool_backward", traffic(args));
  const PoolAxes axes = window_axes(args.shape, args.window, args.count_include_pad);
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    average_backward<T>(stream, args.shape, axes, args.grad_y, args.grad_x, args.mode);
  });
}

void adaptive_avg_pool_forward(CudaStream stream, const AdaptiveAvgPoolForwardArgs& args) {
  const Rehearsed rehearsed(stream, "adaptive_avg_pool_forward", traffic(args));
  const PoolAxes axes = adaptive_axes(args.shape);
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    average_forward<T>(stream, args.shape, axes, args.x, args.y);
  });
}

void adaptive_avg_pool_backward(CudaStream stream, const AdaptiveAvgPoolBackwardArgs& args) {
  const Rehearsed rehearsed(stream, "adaptive_avg_pool_backward", traffic(args));
  const PoolAxes axes = adaptive_axes(args.shape);
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    average_backward<T>(stream, args.shape, axes, args.grad_y, args.grad_x, args.mode);
  });
}

void global_avg_pool_forward(CudaStream stream, const AdaptiveAvgPoolForwardArgs& args) {
  const Rehearsed rehearsed(stream, "global_avg_pool_forward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { global_forward<T>(stream, args); });
}

void global_avg_pool_backward(CudaStream stream, const AdaptiveAvgPoolBackwardArgs& args) {
  const Rehearsed rehearsed(stream, "global_avg_pool_backward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { global_backward<T>(stream, args); });
}

}  // namespace cohort::kernels
