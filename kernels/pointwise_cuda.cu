// Threads: 256 a block, eight elements a thread and turn (16-byte accesses; one element where a pointer is
// not aligned to 16 bytes or channels do not divide), a stride of the grid between turns. No shared memory.
// Bytes moved: as the header says, each once. Registers (ptxas, sm_90): at most 46 (f64: 66); no spill.
#include <type_traits>

#include "kernels/base/rehearsal.h"
#include "kernels/base/sigmoid.h"
#include "kernels/cuda/pack.cuh"
#include "kernels/pointwise.h"

namespace cohort::kernels {
namespace {

using Index = std::int64_t;

constexpr int kBlock = 256;
constexpr int kWidth = 8;  // a multiple of every vector width
constexpr Index kMostBlocks = 1 << 16;

// y[i .. i + W) = or += f.load<W>(i, n).
template <class T, int W, bool kAccumulate, class F>
__global__ __launch_bounds__(kBlock) void map_kernel(Index count, T* y, F f) {
  const Index stride = static_cast<Index>(gridDim.x) * kBlock * W;
  for (Index i = (static_cast<Index>(blockIdx.x) * kBlock + threadIdx.x) * W; i < count; i += stride) {
    const int n = count - i < W ? static_cast<int>(count - i) : W;
    Pack<T, W> value = f.template load<W>(i, n);
    if constexpr (kAccumulate) {
      const Pack<T, W> old = Pack<T, W>::load(y + i, n);
#pragma unroll
      for (int k = 0; k < W; ++k) value[k] += old[k];
    }
    value.store(y + i, n);
  }
}

template <class T, bool kAccumulate, class F>
void map(CudaStream stream, Index count, bool aligned, T* y, const F& f) {
  const int width = aligned && aligned16(y) ? kWidth : 1;
  const simt::LaunchConfig config{
      .grid = grid_size(count, kBlock * width, kMostBlocks), .block = kBlock, .stream = stream};
  if (width == 1) return simt::launch(map_kernel<T, 1, kAccumulate, F>, config, count, y, f);
  simt::launch(map_kernel<T, kWidth, kAccumulate, F>, config, count, y, f);
}

template <class T, class F>
void map(CudaStream stream, Index count, bool aligned, void* y, GradMode mode, const F& f) {
  if (mode == GradMode::kAccumulate) return map<T, true>(stream, count, aligned, static_cast<T*>(y), f);
  map<T, false>(stream, count, aligned, static_cast<T*>(y), f);
}

template <class T>
struct Relu {
  const T* x;
  template <int W>
  __device__ Pack<T, W> load(Index i, int n) const {
    Pack<T, W> v = Pack<T, W>::load(x + i, n);
#pragma unroll
    for (int k = 0; k < W; ++k) v[k] = v[k] < 0 ? 0 : v[k];
    return v;
  }
};

template <class T>
struct ReluMask {
  const T* y;
  const T* grad_y;
  template <int W>
  __device__ Pack<T, W> load(Index i, int n) const {
    const Pack<T, W> mask = Pack<T, W>::load(y + i, n);
    Pack<T, W> v = Pack<T, W>::load(grad_y + i, n);
#pragma unroll
    for (int k = 0; k < W; ++k) v[k] = mask[k] > 0 ? v[k] : 0;
    return v;
  }
};

template <class T>
struct LeakyRelu {
  const T* x;
  Accumulator<T> slope;
  template <int W>
  __device__ Pack<T, W> load(Index i, int n) const {
    Pack<T, W> v = Pack<T, W>::load(x + i, n);
#pragma unroll
    for (int k = 0; k < W; ++k) v[k] = v[k] < 0 ? slope * v[k] : v[k];
    return v;
  }
};

template <class T>
struct LeakyReluGradient {
  const T* y;
  const T* grad_y;
  Accumulator<T> slope;
  template <int W>
  __device__ Pack<T, W> load(Index i, int n) const {
    const Pack<T, W> result = Pack<T, W>::load(y + i, n);
    Pack<T, W> v = Pack<T, W>::load(grad_y + i, n);
#pragma unroll
    for (int k = 0; k < W; ++k) v[k] = result[k] > 0 ? v[k] : slope * v[k];
    return v;
  }
};

template <class T>
struct Sigmoid {
  const T* x;
  template <int W>
  __device__ Pack<T, W> load(Index i, int n) const {
    Pack<T, W> v = Pack<T, W>::load(x + i, n);
#pragma unroll
    for (int k = 0; k < W; ++k) v[k] = sigmoid(v[k]);
    return v;
  }
};

template <class T>
struct SigmoidGradient {
  const T* y;
  const T* grad_y;
  template <int W>
  __device__ Pack<T, W> load(Index i, int n) const {
    const Pack<T, W> result = Pack<T, W>::load(y + i, n);
    Pack<T, W> v = Pack<T, W>::load(grad_y + i, n);
#pragma unroll
    for (int k = 0; k < W; ++k) v[k] *= result[k] * (1 - result[k]);
    return v;
  }
};

template <class T>
struct Sum {
  const T* a;
  const T* b;
  template <int W>
  __device__ Pack<T, W> load(Index i, int n) const {
    Pack<T, W> v = Pack<T, W>::load(a + i, n);
    const Pack<T, W> w = Pack<T, W>::load(b + i, n);
#pragma unroll
    for (int k = 0; k < W; ++k) v[k] += w[k];
    return v;
  }
};

template <class T>
struct Scaled {
  const T* x;
  Accumulator<T> factor;
  template <int W>
  __device__ Pack<T, W> load(Index i, int n) const {
    Pack<T, W> v = Pack<T, W>::load(x + i, n);
#pragma unroll
    for (int k = 0; k < W; ++k) v[k] *= factor;
    return v;
  }
};

template <class To, class From>
struct Converted {
  const From* x;
  template <int W>
  __device__ Pack<To, W> load(Index i, int n) const {
    const Pack<From, W> v = Pack<From, W>::load(x + i, n);
    Pack<To, W> r;
#pragma unroll
    for (int k = 0; k < W; ++k) r[k] = static_cast<Accumulator<To>>(v[k]);
    return r;
  }
};

template <class T>
struct Constant {
  Accumulator<T> value;
  template <int W>
  __device__ Pack<T, W> load(Index, int) const {
    Pack<T, W> r;
#pragma unroll
    for (int k = 0; k < W; ++k) r[k] = value;
    return r;
  }
};

// What a thread of a shortcut kernel needs of the shape; C of one side in groups of W channels.
struct Shortcut {
  explicit Shortcut(const ShortcutAShape& s)
      : height(s.height),
        width(s.width),
        channels_in(s.channels_in),
        channels_out(s.channels_out),
        stride(s.stride),
        out_height(s.out_height()),
        out_width(s.out_width()),
        before((s.channels_out - s.channels_in) / 2),
        count_x(s.batch * height * width * channels_in),
        count_y(s.batch * out_height * out_width * channels_out) {}

  bool divisible(int w) const { return channels_in % w == 0 && channels_out % w == 0 && before % w == 0; }

  Index height, width, channels_in, channels_out, stride, out_height, out_width, before, count_x, count_y;
};

template <class T, int W>
__global__ __launch_bounds__(kBlock) void shortcut_forward_kernel(Shortcut s, const T* x, T* y) {
  const Index step = static_cast<Index>(gridDim.x) * kBlock * W;
  for (Index at = (static_cast<Index>(blockIdx.x) * kBlock + threadIdx.x) * W; at < s.count_y; at += step) {
    const Index pixel = quotient(at, s.channels_out);
    const Index c = at - pixel * s.channels_out - s.before;
    Pack<T, W> value;
#pragma unroll
    for (int k = 0; k < W; ++k) value[k] = 0;
    if (c >= 0 && c < s.channels_in) {
      const Index row = quotient(pixel, s.out_width);
      const Index j = pixel - row * s.out_width;
      const Index n = quotient(row, s.out_height);
      const Index i = row - n * s.out_height;
      const Index from = (n * s.height + i * s.stride) * s.width + j * s.stride;
      value = Pack<T, W>::load(x + from * s.channels_in + c);
    }
    value.store(y + at);
  }
}

template <class T, int W, bool kAccumulate>
__global__ __launch_bounds__(kBlock) void shortcut_backward_kernel(Shortcut s, const T* grad_y, T* grad_x) {
  const Index step = static_cast<Index>(gridDim.x) * kBlock * W;
  for (Index at = (static_cast<Index>(blockIdx.x) * kBlock + threadIdx.x) * W; at < s.count_x; at += step) {
    const Index pixel = quotient(at, s.channels_in);
    const Index c = at - pixel * s.channels_in;
    const Index row = quotient(pixel, s.width);
    const Index w = pixel - row * s.width;
    const Index n = quotient(row, s.height);
    const Index h = row - n * s.height;
    const Index i = quotient(h, s.stride);
    const Index j = quotient(w, s.stride);
    const bool kept = i * s.stride == h && j * s.stride == w;
    if (kAccumulate && !kept) continue;
    Pack<T, W> value;
#pragma unroll
    for (int k = 0; k < W; ++k) value[k] = 0;
    if (kept) {
      const Index from = (n * s.out_height + i) * s.out_width + j;
      value = Pack<T, W>::load(grad_y + from * s.channels_out + s.before + c);
    }
    if constexpr (kAccumulate) {
      const Pack<T, W> old = Pack<T, W>::load(grad_x + at);
#pragma unroll
      for (int k = 0; k < W; ++k) value[k] += old[k];
    }
    value.store(grad_x + at);
  }
}

template <class T>
void shortcut_forward(CudaStream stream, const ShortcutAForwardArgs& args) {
  constexpr int kWide = Vec<T>::kWidth;
  const Shortcut s(args.shape);
  const auto* x = static_cast<const T*>(args.x);
  auto* y = static_cast<T*>(args.y);
  const bool wide = s.divisible(kWide) && all_aligned16({x, y});
  const simt::LaunchConfig config{.grid = grid_size(s.count_y, kBlock * (wide ? kWide : 1), kMostBlocks),
                                  .block = kBlock,
                                  .stream = stream};
  if (wide) return simt::launch(shortcut_forward_kernel<T, kWide>, config, s, x, y);
  simt::launch(shortcut_forward_kernel<T, 1>, config, s, x, y);
}

template <class T, bool kAccumulate>
void shortcut_backward(CudaStream stream, const ShortcutABackwardArgs& args) {
  constexpr int kWide = Vec<T>::kWidth;
  const Shortcut s(args.shape);
  const auto* grad_y = static_cast<const T*>(args.grad_y);
  auto* grad_x = static_cast<T*>(args.grad_x);
  const bool wide = s.divisible(kWide) && all_aligned16({grad_y, grad_x});
  const simt::LaunchConfig config{.grid = grid_size(s.count_x, kBlock * (wide ? kWide : 1), kMostBlocks),
                                  .block = kBlock,
                                  .stream = stream};
  if (wide) return simt::launch(shortcut_backward_kernel<T, kWide, kAccumulate>, config, s, grad_y, grad_x);
  simt::launch(shortcut_backward_kernel<T, 1, kAccumulate>, config, s, grad_y, grad_x);
}

}  // namespace

void relu_forward(CudaStream stream, const ActivationForwardArgs& args) {
  const Rehearsed rehearsed(stream, "relu_forward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    map<T>(stream, args.count, aligned16(args.x), args.y, GradMode::kOverwrite,
           Relu<T>{static_cast<const T*>(args.x)});
  });
}

void relu_backward(CudaStream stream, const ActivationBackwardArgs& args) {
  const Rehearsed rehearsed(stream, "relu_backward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    map<T>(stream, args.count, all_aligned16({args.y, args.grad_y}), args.grad_x, args.mode,
           ReluMask<T>{static_cast<const T*>(args.y), static_cast<const T*>(args.grad_y)});
  });
}

void leaky_relu_forward(CudaStream stream, const LeakyReluForwardArgs& args) {
  const Rehearsed rehearsed(stream, "leaky_relu_forward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    map<T>(stream, args.count, aligned16(args.x), args.y, GradMode::kOverwrite,
           LeakyRelu<T>{static_cast<const T*>(args.x), static_cast<Accumulator<T>>(args.slope)});
  });
}

void leaky_relu_backward(CudaStream stream, const LeakyReluBackwardArgs& args) {
  const Rehearsed rehearsed(stream, "leaky_relu_backward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    map<T>(stream, args.count, all_aligned16({args.y, args.grad_y}), args.grad_x, args.mode,
           LeakyReluGradient<T>{static_cast<const T*>(args.y), static_cast<const T*>(args.grad_y),
                                static_cast<Accumulator<T>>(args.slope)});
  });
}

void sigmoid_forward(CudaStream stream, const ActivationForwardArgs& args) {
  const Rehearsed rehearsed(stream, "sigmoid_forward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    map<T>(stream, args.count, aligned16(args.x), args.y, GradMode::kOverwrite,
           Sigmoid<T>{static_cast<const T*>(args.x)});
  });
}

void sigmoid_backward(CudaStream stream, const ActivationBackwardArgs& args) {
  const Rehearsed rehearsed(stream, "sigmoid_backward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    map<T>(stream, args.count, all_aligned16({args.y, args.grad_y}), args.grad_x, args.mode,
           SigmoidGradient<T>{static_cast<const T*>(args.y), static_cast<const T*>(args.grad_y)});
  });
}

void add(CudaStream stream, const AddArgs& args) {
  const Rehearsed rehearsed(stream, "add", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    map<T>(stream, args.count, all_aligned16({args.a, args.b}), args.y, GradMode::kOverwrite,
           Sum<T>{static_cast<const T*>(args.a), static_cast<const T*>(args.b)});
  });
}

void scale(CudaStream stream, const ScaleArgs& args) {
  const Rehearsed rehearsed(stream, "scale", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    map<T>(stream, args.count, aligned16(args.x), args.y, args.mode,
           Scaled<T>{static_cast<const T*>(args.x), static_cast<Accumulator<T>>(args.factor)});
  });
}

void cast(CudaStream stream, const CastArgs& args) {
  const Rehearsed rehearsed(stream, "cast", traffic(args));
  dispatch_float(args.from, [&]<class From>(std::type_identity<From>) {
    dispatch_float(args.to, [&]<class To>(std::type_identity<To>) {
      map<To>(stream, args.count, aligned16(args.x), args.y, GradMode::kOverwrite,
              Converted<To, From>{static_cast<const From*>(args.x)});
    });
  });
}

void fill(CudaStream stream, const FillArgs& args) {
  const Rehearsed rehearsed(stream, "fill", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    map<T>(stream, args.count, true, args.y, GradMode::kOverwrite,
           Constant<T>{static_cast<Accumulator<T>>(args.value)});
  });
}

void shortcut_a_forward(CudaStream stream, const ShortcutAForwardArgs& args) {
  const Rehearsed rehearsed(stream, "shortcut_a_forward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { shortcut_forward<T>(stream, args); });
}

void shortcut_a_backward(CudaStream stream, const ShortcutABackwardArgs& args) {
  const Rehearsed rehearsed(stream, "shortcut_a_backward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    if (args.mode == GradMode::kAccumulate) return shortcut_backward<T, true>(stream, args);
    shortcut_backward<T, false>(stream, args);
  });
}

}  // namespace cohort::kernels
