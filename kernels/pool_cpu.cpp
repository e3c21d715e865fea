#include <algorithm>
#include <limits>
#include <type_traits>

#include "kernels/base/error.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/parallel.h"
#include "kernels/pool.h"
#include "kernels/pool_axis.h"

namespace cohort::kernels {
namespace {

using Index = std::int64_t;

constexpr Index kSlice = 256;      // channels per accumulator array on the stack
constexpr Index kGrain = 1 << 14;  // elements of the output per chunk
constexpr Index kRun = 1024;       // pixels per summation chain of global_avg_pool

// f(image, row, column, first channel, channels) for each pixel of an (N, height, width, C) map and each
// slice of channels, in parallel over rows.
template <class F>
void for_pixels(CpuStream stream, Index batch, Index height, Index width, Index channels, F&& f) {
  const Index grain = std::max<Index>(1, kGrain / std::max<Index>(1, width * channels));
  parallel_for(stream, batch * height, grain, [&](Index begin, Index end) {
    for (Index row = begin; row < end; ++row) {
      for (Index column = 0; column < width; ++column) {
        for (Index c = 0; c < channels; c += kSlice) {
          f(row / height, row % height, column, c, std::min(kSlice, channels - c));
        }
      }
    }
  });
}

template <class T>
void store_slice(T* out, const Accumulator<T>* value, Index count, GradMode mode) {
  if (mode == GradMode::kOverwrite) {
#pragma omp simd
    for (Index c = 0; c < count; ++c) store(out, c, value[c]);
  } else {
#pragma omp simd
    for (Index c = 0; c < count; ++c) store(out, c, load(out, c) + value[c]);
  }
}

template <class T>
void max_forward(CpuStream stream, const MaxPoolForwardArgs& args) {
  using A = Accumulator<T>;
  const PoolShape s = args.shape;
  check(s.height * s.width <= std::numeric_limits<std::int32_t>::max(),
        "max_pool: map too large for i32 positions");
  const PoolAxes axes = window_axes(s, args.window, false);
  const T* const x = static_cast<const T*>(args.x);
  for_pixels(stream, s.batch, s.out_height, s.out_width, s.channels,
             [&](Index n, Index i, Index j, Index c0, Index count) {
               alignas(64) A best[kSlice];
               alignas(64) std::int32_t where[kSlice];
               const Index top = axes.vertical.begin(i);
               const Index left = axes.horizontal.begin(j);
               for (Index h = top; h < axes.vertical.end(i); ++h) {
                 for (Index w = left; w < axes.horizontal.end(j); ++w) {
                   const T* const in = x + ((n * s.height + h) * s.width + w) * s.channels + c0;
                   const auto position = static_cast<std::int32_t>(h * s.width + w);
                   if (h == top && w == left) {
                     for (Index c = 0; c < count; ++c) best[c] = load(in, c);
                     std::fill_n(where, count, position);
                     continue;
                   }
#pragma omp simd
                   for (Index c = 0; c < count; ++c) {
                     const A v = load(in, c);
                     const A b = best[c];
                     const bool take = (v > b) | ((v != v) & (b == b));  // NaN wins, and the first one stays
                     best[c] = take ? v : b;
                     where[c] = take ? position : where[c];
                   }
                 }
               }
               const Index out = ((n * s.out_height + i) * s.out_width + j) * s.channels + c0;
               store_slice(static_cast<T*>(args.y) + out, best, count, GradMode::kOverwrite);
               if (args.argmax != nullptr) std::copy_n(where, count, args.argmax + out);
             });
}

template <class T>
void max_backward(CpuStream stream, const MaxPoolBackwardArgs& args) {
  using A = Accumulator<T>;
  const PoolShape s = args.shape;
  const PoolAxes axes = window_axes(s, args.window, false);
  const T* const grad_y = static_cast<const T*>(args.grad_y);
  for_pixels(
      stream, s.batch, s.height, s.width, s.channels, [&](Index n, Index h, Index w, Index c0, Index count) {
        alignas(64) A sum[kSlice];
        std::fill_n(sum, count, A{0});
        const auto position = static_cast<std::int32_t>(h * s.width + w);
        for (Index i = axes.vertical.first(h); i < axes.vertical.last(h); ++i) {
          for (Index j = axes.horizontal.first(w); j < axes.horizontal.last(w); ++j) {
            const Index at = ((n * s.out_height + i) * s.out_width + j) * s.channels + c0;
            const std::int32_t* const where = args.argmax + at;
#pragma omp simd
            for (Index c = 0; c < count; ++c) {
              const A g = load(grad_y, at + c);
              sum[c] += where[c] == position ? g : A{0};
            }
          }
        }
        store_slice(static_cast<T*>(args.grad_x) + ((n * s.height + h) * s.width + w) * s.channels + c0, sum,
                    count, args.mode);
      });
}

template <class T>
void average_forward(CpuStream stream, const PoolShape& s, const PoolAxes& axes, const void* x, void* y) {
  using A = Accumulator<T>;
  for_pixels(stream, s.batch, s.out_height, s.out_width, s.channels,
             [&](Index n, Index i, Index j, Index c0, Index count) {
               alignas(64) A sum[kSlice];
               std::fill_n(sum, count, A{0});
               for (Index h = axes.vertical.begin(i); h < axes.vertical.end(i); ++h) {
                 for (Index w = axes.horizontal.begin(j); w < axes.horizontal.end(j); ++w) {
                   const T* const in =
                       static_cast<const T*>(x) + ((n * s.height + h) * s.width + w) * s.channels + c0;
#pragma omp simd
                   for (Index c = 0; c < count; ++c) sum[c] += load(in, c);
                 }
               }
               const A size = static_cast<A>(axes.vertical.divisor(i) * axes.horizontal.divisor(j));
               for (Index c = 0; c < count; ++c) sum[c] /= size;
               store_slice(static_cast<T*>(y) + ((n * s.out_height + i) * s.out_width + j) * s.channels + c0,
                           sum, count, GradMode::kOverwrite);
             });
}

template <class T>
void average_backward(CpuStream stream, const PoolShape& s, const PoolAxes& axes, const void* grad_y,
                      void* grad_x, GradMode mode) {
  using A = Accumulator<T>;
  for_pixels(
      stream, s.batch, s.height, s.width, s.channels, [&](Index n, Index h, Index w, Index c0, Index count) {
        alignas(64) A sum[kSlice];
        std::fill_n(sum, count, A{0});
        for (Index i = axes.vertical.first(h); i < axes.vertical.last(h); ++i) {
          for (Index j = axes.horizontal.first(w); j < axes.horizontal.last(w); ++j) {
            const A size = static_cast<A>(axes.vertical.divisor(i) * axes.horizontal.divisor(j));
            const T* const in =
                static_cast<const T*>(grad_y) + ((n * s.out_height + i) * s.out_width + j) * s.channels + c0;
#pragma omp simd
            for (Index c = 0; c < count; ++c) sum[c] += load(in, c) / size;
          }
        }
        store_slice(static_cast<T*>(grad_x) + ((n * s.height + h) * s.width + w) * s.channels + c0, sum,
                    count, mode);
      });
}

// Sums of `pixels` pixels per channel of a slice, in runs of kRun, four pixels at a time within a run.
template <class T>
void sum_pixels(const T* x, Index pixels, Index channels, Index count, Accumulator<T>* total) {
  using A = Accumulator<T>;
  alignas(64) A run[kSlice];
  std::fill_n(total, count, A{0});
  for (Index begin = 0; begin < pixels; begin += kRun) {
    std::fill_n(run, count, A{0});
    const Index end = std::min(pixels, begin + kRun);
    Index p = begin;
    for (; p + 4 <= end; p += 4) {
      const T* const in = x + p * channels;
#pragma omp simd
      for (Index c = 0; c < count; ++c) {
        run[c] += (load(in, c) + load(in, channels + c)) +
                  (load(in, 2 * channels + c) + load(in, 3 * channels + c));
      }
    }
    for (; p < end; ++p) {
      const T* const in = x + p * channels;
#pragma omp simd
      for (Index c = 0; c < count; ++c) run[c] += load(in, c);
    }
#pragma omp simd
    for (Index c = 0; c < count; ++c) total[c] += run[c];
  }
}

template <class T>
void global_forward(CpuStream stream, const AdaptiveAvgPoolForwardArgs& args) {
  using A = Accumulator<T>;
  const PoolShape s = args.shape;
  const Index pixels = s.height * s.width;
  check(pixels > 0, "global_avg_pool: empty map");
  for_pixels(stream, s.batch, 1, 1, s.channels, [&](Index n, Index, Index, Index c0, Index count) {
    alignas(64) A total[kSlice];
    sum_pixels(static_cast<const T*>(args.x) + n * pixels * s.channels + c0, pixels, s.channels, count,
               total);
    for (Index c = 0; c < count; ++c) total[c] /= static_cast<A>(pixels);
    store_slice(static_cast<T*>(args.y) + n * s.channels + c0, total, count, GradMode::kOverwrite);
  });
}

template <class T>
void global_backward(CpuStream stream, const AdaptiveAvgPoolBackwardArgs& args) {
  using A = Accumulator<T>;
  const PoolShape s = args.shape;
  const Index pixels = s.height * s.width;
  check(pixels > 0, "global_avg_pool: empty map");
  const Index grain = std::max<Index>(1, kGrain / std::max<Index>(1, pixels * s.channels));
  parallel_for(stream, s.batch, grain, [&](Index begin, Index end) {
    alignas(64) A share[kSlice];
    for (Index n = begin; n < end; ++n) {
      for (Index c0 = 0; c0 < s.channels; c0 += kSlice) {
        const Index count = std::min(kSlice, s.channels - c0);
        const T* const in = static_cast<const T*>(args.grad_y) + n * s.channels + c0;
        for (Index c = 0; c < count; ++c) share[c] = load(in, c) / static_cast<A>(pixels);
        T* const out = static_cast<T*>(args.grad_x) + n * pixels * s.channels + c0;
        for (Index p = 0; p < pixels; ++p) store_slice(out + p * s.channels, share, count, args.mode);
      }
    }
  });
}

}  // namespace

void max_pool_forward(CpuStream stream, const MaxPoolForwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { max_forward<T>(stream, args); });
}

void max_pool_backward(CpuStream stream, const MaxPoolBackwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { max_backward<T>(stream, args); });
}

void avg_pool_forward(CpuStream stream, const AvgPoolForwardArgs& args) {
  const PoolAxes axes = window_axes(args.shape, args.window, args.count_include_pad);
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    average_forward<T>(stream, args.shape, axes, args.x, args.y);
  });
}

void avg_pool_backward(CpuStream stream, const AvgPoolBackwardArgs& args) {
  const PoolAxes axes = window_axes(args.shape, args.window, args.count_include_pad);
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    average_backward<T>(stream, args.shape, axes, args.grad_y, args.grad_x, args.mode);
  });
}

void adaptive_avg_pool_forward(CpuStream stream, const AdaptiveAvgPoolForwardArgs& args) {
  const PoolAxes axes = adaptive_axes(args.shape);
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    average_forward<T>(stream, args.shape, axes, args.x, args.y);
  });
}

void adaptive_avg_pool_backward(CpuStream stream, const AdaptiveAvgPoolBackwardArgs& args) {
  const PoolAxes axes = adaptive_axes(args.shape);
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    average_backward<T>(stream, args.shape, axes, args.grad_y, args.grad_x, args.mode);
  });
}

void global_avg_pool_forward(CpuStream stream, const AdaptiveAvgPoolForwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { global_forward<T>(stream, args); });
}

void global_avg_pool_backward(CpuStream stream, const AdaptiveAvgPoolBackwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { global_backward<T>(stream, args); });
}

}  // namespace cohort::kernels
