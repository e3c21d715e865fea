#include <algorithm>
#include <type_traits>

#include "kernels/base/sigmoid.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/parallel.h"
#include "kernels/pointwise.h"

namespace cohort::kernels {
namespace {

using Index = std::int64_t;

constexpr Index kGrain = 1 << 15;  // elements per chunk: 128 KiB of f32, far above the cost of a hand-over

// y[i] = f(i) for all i, or y[i] += f(i). kExact: T holds every f(i) exactly.
template <bool kExact = false, class T, class F>
void map(CpuStream stream, Index count, T* y, GradMode mode, F f) {
  parallel_for(stream, count, kGrain, [=](Index begin, Index end) {
    if (mode == GradMode::kOverwrite) {
#pragma omp simd
      for (Index i = begin; i < end; ++i) {
        if constexpr (kExact) {
          store_exact(y, i, f(i));
        } else {
          store(y, i, f(i));
        }
      }
    } else {
#pragma omp simd
      for (Index i = begin; i < end; ++i) store(y, i, load(y, i) + f(i));
    }
  });
}

template <class To, class From>
void cast_elements(CpuStream stream, const CastArgs& args) {
  const From* const x = static_cast<const From*>(args.x);
  map(stream, args.count, static_cast<To*>(args.y), GradMode::kOverwrite,
      [x](Index i) { return static_cast<Accumulator<To>>(load(x, i)); });
}

// f(pixel of x, pixel of y) for every pixel of y in image rows [begin, end).
template <class F>
void for_kept_pixels(const ShortcutAShape& s, Index begin, Index end, F&& f) {
  const Index out_height = s.out_height();
  const Index out_width = s.out_width();
  for (Index row = begin; row < end; ++row) {
    const Index x_row = row / out_height * s.height + row % out_height * s.stride;
    for (Index j = 0; j < out_width; ++j) f(x_row * s.width + j * s.stride, row * out_width + j);
  }
}

template <class T>
void shortcut_forward(CpuStream stream, const ShortcutAForwardArgs& args) {
  const ShortcutAShape s = args.shape;
  const T* const x = static_cast<const T*>(args.x);
  T* const y = static_cast<T*>(args.y);
  const Index before = (s.channels_out - s.channels_in) / 2;
  const Index grain = std::max<Index>(1, kGrain / std::max<Index>(1, s.out_width() * s.channels_out));
  parallel_for(stream, s.batch * s.out_height(), grain, [=](Index begin, Index end) {
    for_kept_pixels(s, begin, end, [=](Index from, Index to) {
      T* const out = y + to * s.channels_out;
      std::fill_n(out, before, T{});
      std::copy_n(x + from * s.channels_in, s.channels_in, out + before);
      std::fill_n(out + before + s.channels_in, s.channels_out - before - s.channels_in, T{});
    });
  });
}

template <class T>
void shortcut_backward(CpuStream stream, const ShortcutABackwardArgs& args) {
  const ShortcutAShape s = args.shape;
  const T* const grad_y = static_cast<const T*>(args.grad_y);
  T* const grad_x = static_cast<T*>(args.grad_x);
  const Index before = (s.channels_out - s.channels_in) / 2;
  const Index grain = std::max<Index>(1, kGrain / std::max<Index>(1, s.stride * s.width * s.channels_in));
  const bool accumulate = args.mode == GradMode::kAccumulate;
  parallel_for(stream, s.batch * s.out_height(), grain, [=](Index begin, Index end) {
    if (!accumulate) {  // the image rows that belong to these output rows: no others write them
      for (Index row = begin; row < end; ++row) {
        const Index first = row % s.out_height() * s.stride;
        const Index rows = std::min(s.stride, s.height - first);
        T* const out = grad_x + (row / s.out_height() * s.height + first) * s.width * s.channels_in;
        std::fill_n(out, rows * s.width * s.channels_in, T{});
      }
    }
    for_kept_pixels(s, begin, end, [=](Index from, Index to) {
      const T* const in = grad_y + to * s.channels_out + before;
      T* const out = grad_x + from * s.channels_in;
      if (accumulate) {
#pragma omp simd
        for (Index c = 0; c < s.channels_in; ++c) store(out, c, load(out, c) + load(in, c));
      } else {
        std::copy_n(in, s.channels_in, out);
      }
    });
  });
}

}  // namespace

void relu_forward(CpuStream stream, const ActivationForwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    using A = Accumulator<T>;
    const T* const x = static_cast<const T*>(args.x);
    map<true>(stream, args.count, static_cast<T*>(args.y), GradMode::kOverwrite, [x](Index i) {
      const A v = load(x, i);
      return v < A{0} ? A{0} : v;
    });
  });
}

void relu_backward(CpuStream stream, const ActivationBackwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    using A = Accumulator<T>;
    const T* const y = static_cast<const T*>(args.y);
    const T* const grad_y = static_cast<const T*>(args.grad_y);
    map<true>(stream, args.count, static_cast<T*>(args.grad_x), args.mode, [y, grad_y](Index i) {
      const A g = load(grad_y, i);
      return load(y, i) > A{0} ? g : A{0};
    });
  });
}

void leaky_relu_forward(CpuStream stream, const LeakyReluForwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    using A = Accumulator<T>;
    const T* const x = static_cast<const T*>(args.x);
    const auto slope = static_cast<A>(args.slope);
    map(stream, args.count, static_cast<T*>(args.y), GradMode::kOverwrite, [x, slope](Index i) {
      const A v = load(x, i);
      return v < A{0} ? slope * v : v;
    });
  });
}

void leaky_relu_backward(CpuStream stream, const LeakyReluBackwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    using A = Accumulator<T>;
    const T* const y = static_cast<const T*>(args.y);
    const T* const grad_y = static_cast<const T*>(args.grad_y);
    const auto slope = static_cast<A>(args.slope);
    map(stream, args.count, static_cast<T*>(args.grad_x), args.mode, [y, grad_y, slope](Index i) {
      const A g = load(grad_y, i);
      return load(y, i) > A{0} ? g : slope * g;
    });
  });
}

void sigmoid_forward(CpuStream stream, const ActivationForwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    const T* const x = static_cast<const T*>(args.x);
    map(stream, args.count, static_cast<T*>(args.y), GradMode::kOverwrite,
        [x](Index i) { return sigmoid(load(x, i)); });
  });
}

void sigmoid_backward(CpuStream stream, const ActivationBackwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    using A = Accumulator<T>;
    const T* const y = static_cast<const T*>(args.y);
    const T* const grad_y = static_cast<const T*>(args.grad_y);
    map(stream, args.count, static_cast<T*>(args.grad_x), args.mode, [y, grad_y](Index i) {
      const A v = load(y, i);
      return v * (A{1} - v) * load(grad_y, i);
    });
  });
}

void add(CpuStream stream, const AddArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    const T* const a = static_cast<const T*>(args.a);
    const T* const b = static_cast<const T*>(args.b);
    map(stream, args.count, static_cast<T*>(args.y), GradMode::kOverwrite,
        [a, b](Index i) { return load(a, i) + load(b, i); });
  });
}

void scale(CpuStream stream, const ScaleArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    const T* const x = static_cast<const T*>(args.x);
    const auto factor = static_cast<Accumulator<T>>(args.factor);
    map(stream, args.count, static_cast<T*>(args.y), args.mode,
        [x, factor](Index i) { return factor * load(x, i); });
  });
}

void cast(CpuStream stream, const CastArgs& args) {
  dispatch_float(args.from, [&]<class From>(std::type_identity<From>) {
    dispatch_float(args.to, [&]<class To>(std::type_identity<To>) { cast_elements<To, From>(stream, args); });
  });
}

void fill(CpuStream stream, const FillArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    const auto value = static_cast<Accumulator<T>>(args.value);
    map(stream, args.count, static_cast<T*>(args.y), GradMode::kOverwrite, [value](Index) { return value; });
  });
}

void shortcut_a_forward(CpuStream stream, const ShortcutAForwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { shortcut_forward<T>(stream, args); });
}

void shortcut_a_backward(CpuStream stream, const ShortcutABackwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { shortcut_backward<T>(stream, args); });
}

}  // namespace cohort::kernels
