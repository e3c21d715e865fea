#include <algorithm>

#include "kernels/conv2d.h"
#include "kernels/cpu/column_sum.h"
#include "kernels/cpu/conv2d_plain.h"
#include "kernels/cpu/onednn.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/winograd.h"

namespace cohort::kernels {
namespace {

using cpu::aligned;
using cpu::Scratch;

// The batch in pieces of `size` images, the last one shorter. Depends on the shape only.
struct Slices {
  std::int64_t images = 0, size = 0;
  std::int64_t count() const { return ceil_div(images, size); }
  std::int64_t begin(std::int64_t slice) const { return slice * size; }
  bool whole(std::int64_t slice) const { return (slice + 1) * size <= images; }
  std::int64_t remainder() const { return images % size; }
};

// Small enough for what a slice reads and writes to stay in a core's L2, and for 16 cores to share a batch of
// 128.
Slices activation_slices(const Conv2dShape& s, DType dtype) {
  constexpr std::int64_t kBytes = 1 << 20;
  constexpr std::int64_t kMostImages = 8;
  const std::int64_t per_image =
      (s.h * s.w * s.c + s.out_h() * s.out_w() * s.k) * static_cast<std::int64_t>(size_of(dtype));
  return {s.n, std::clamp<std::int64_t>(kBytes / std::max<std::int64_t>(per_image, 1), 1, kMostImages)};
}

// Each slice has a partial gradient of its own: few slices, also where that leaves cores idle.
Slices weight_slices(const Conv2dShape& s) {
  constexpr std::int64_t kMostSlices = 8;
  return {s.n, ceil_div(s.n, kMostSlices)};
}

// The primitives of one pass: for a whole slice, and for the shorter last one.
struct Primitives {
  const onednn::Convolution* whole = nullptr;
  const onednn::Convolution* last = nullptr;
  bool complete = false;

  Primitives(onednn::ConvolutionKey key, const Slices& slices) {
    if (key.dtype == DType::f64) return;
    complete = true;
    if (slices.images >= slices.size) {
      key.shape.n = slices.size;
      whole = onednn::convolution(key);
      complete = whole != nullptr;
    }
    if (slices.remainder() != 0 && complete) {
      key.shape.n = slices.remainder();
      last = onednn::convolution(key);
      complete = last != nullptr;
    }
  }
  const onednn::Convolution& of(const Slices& slices, std::int64_t slice) const {
    return slices.whole(slice) ? *whole : *last;
  }
  const onednn::Convolution& any() const { return whole != nullptr ? *whole : *last; }
  std::size_t scratch_bytes() const {
    return std::max(whole == nullptr ? 0 : whole->scratch_bytes(),
                    last == nullptr ? 0 : last->scratch_bytes());
  }
  std::size_t weight_bytes() const {
    return std::max(whole == nullptr ? 0 : whole->weight_bytes(), last == nullptr ? 0 : last->weight_bytes());
  }
};

onednn::ConvolutionKey key_of(const Conv2dShape& s, DType dtype, Conv2dPass pass) {
  return {.shape = s,
          .dtype = dtype,
          .result = pass == Conv2dPass::kBackwardWeights ? accumulator_of(dtype) : dtype,
          .pass = pass,
          .bias = false};
}

// A packed weight per primitive and scratch per thread.
struct ActivationMemory {
  std::byte* packed_whole = nullptr;
  std::byte* packed_last = nullptr;
  std::byte* scratch = nullptr;  // num_threads pieces of scratch_stride
  std::size_t scratch_stride = 0;
  std::byte* slice = nullptr;  // num_threads pieces: a slice of grad_x in f32, before it is added
  std::size_t slice_stride = 0;

  ActivationMemory(CpuStream stream, const Primitives& primitives, std::size_t slice_bytes, Scratch& memory) {
    const auto threads = static_cast<std::size_t>(num_threads(stream));
    if (primitives.whole != nullptr) packed_whole = memory.take(primitives.whole->weight_bytes());
    if (primitives.last != nullptr) packed_last = memory.take(primitives.last->weight_bytes());
    scratch_stride = aligned(primitives.scratch_bytes());
    scratch = memory.take(threads * scratch_stride);
    slice_stride = aligned(slice_bytes);
    slice = memory.take(threads * slice_stride);
  }
  void pack(const Primitives& primitives, const void* weight) const {
    if (primitives.whole != nullptr) primitives.whole->pack_weight(weight, packed_whole);
    if (primitives.last != nullptr) primitives.last->pack_weight(weight, packed_last);
  }
};

// The gradient of a whole slice is formed in f32 and added, rounding once.
std::size_t added_slice_bytes(const Conv2dShape& s, const Slices& slices) {
  return static_cast<std::size_t>(slices.size * s.h * s.w * s.c) * sizeof(float);
}

struct WeightMemory {
  std::byte* partial = nullptr;  // per slice, dense, f32
  std::size_t partial_stride = 0;
  std::byte* packed = nullptr;  // per thread
  std::size_t packed_stride = 0;
  std::byte* scratch = nullptr;  // per thread
  std::size_t scratch_stride = 0;

  WeightMemory(CpuStream stream, const Conv2dShape& s, const Slices& slices, const Primitives& primitives,
               Scratch& memory) {
    const auto threads = static_cast<std::size_t>(num_threads(stream));
    partial_stride = aligned(static_cast<std::size_t>(s.num_weight()) * sizeof(float));
    partial = memory.take(static_cast<std::size_t>(slices.count()) * partial_stride);
    packed_stride = aligned(primitives.weight_bytes());
    packed = memory.take(threads * packed_stride);
    scratch_stride = aligned(primitives.scratch_bytes());
    scratch = memory.take(threads * scratch_stride);
  }
};

template <class T>
const T* at(const void* data, std::int64_t index) {
  return static_cast<const T*>(data) + index;
}

template <class T>
T* at(void* data, std::int64_t index) {
  return static_cast<T*>(data) + index;
}

const std::byte* offset(const void* data, std::int64_t elements, DType dtype) {
  return static_cast<const std::byte*>(data) + static_cast<std::size_t>(elements) * size_of(dtype);
}

std::byte* offset(void* data, std::int64_t elements, DType dtype) {
  return static_cast<std::byte*>(data) + static_cast<std::size_t>(elements) * size_of(dtype);
}

void check_shape(const Conv2dShape& s) {
  check(s.stride >= 1 && s.dilation >= 1 && s.groups >= 1 && s.padding >= 0 && s.c % s.groups == 0 &&
            s.k % s.groups == 0,
        "conv2d: not a convolution");
}

std::int64_t x_per_image(const Conv2dShape& s) {
  return s.h * s.w * s.c;
}

std::int64_t y_per_image(const Conv2dShape& s) {
  return s.out_h() * s.out_w() * s.k;
}

template <class T>
void plain_forward(CpuStream stream, const Conv2dForwardArgs& a) {
  const Conv2dShape& s = a.shape;
  parallel_chunks(stream, s.n, [&](std::int64_t n, int) {
    cpu::plain_conv2d_forward_image<T>(s, at<T>(a.x, n * x_per_image(s)), at<T>(a.weight, 0),
                                       static_cast<const Accumulator<T>*>(a.bias),
                                       at<T>(a.y, n * y_per_image(s)));
  });
}

template <class T>
void plain_backward_data(CpuStream stream, const Conv2dBackwardDataArgs& a) {
  const Conv2dShape& s = a.shape;
  const std::size_t stride = aligned(static_cast<std::size_t>(s.c) * sizeof(Accumulator<T>));
  std::byte* const sums = Scratch(a.workspace).take(static_cast<std::size_t>(num_threads(stream)) * stride);
  parallel_chunks(stream, s.n, [&](std::int64_t n, int thread) {
    cpu::plain_conv2d_backward_data_image<T>(
        s, at<T>(a.grad_y, n * y_per_image(s)), at<T>(a.weight, 0), at<T>(a.grad_x, n * x_per_image(s)),
        a.mode, reinterpret_cast<Accumulator<T>*>(sums + static_cast<std::size_t>(thread) * stride));
  });
}

template <class T>
void plain_backward_weights(CpuStream stream, const Conv2dBackwardWeightsArgs& a, Scratch& memory) {
  const Conv2dShape& s = a.shape;
  const std::int64_t filter = s.num_weight() / s.k;
  const std::size_t stride = aligned(static_cast<std::size_t>(filter) * sizeof(double));
  std::byte* const sums = memory.take(static_cast<std::size_t>(num_threads(stream)) * stride);
  parallel_chunks(stream, s.k, [&](std::int64_t k, int thread) {
    cpu::plain_conv2d_backward_weights_filter<T>(
        s, k, at<T>(a.x, 0), at<T>(a.grad_y, 0), at<Accumulator<T>>(a.grad_weight, k * filter), a.weight_mode,
        reinterpret_cast<double*>(sums + static_cast<std::size_t>(thread) * stride));
  });
}

void add_f32(const float* partial, std::int64_t count, void* sum, DType dtype) {
  if (dtype == DType::f32) {
    float* const out = static_cast<float*>(sum);
    for (std::int64_t i = 0; i < count; ++i) out[i] += partial[i];
  } else {
    bf16* const out = static_cast<bf16*>(sum);
    for (std::int64_t i = 0; i < count; ++i) out[i] = bf16(static_cast<float>(out[i]) + partial[i]);
  }
}

void onednn_backward_weights(CpuStream stream, const Conv2dBackwardWeightsArgs& a, Scratch& memory) {
  const Conv2dShape& s = a.shape;
  const Slices slices = weight_slices(s);
  const Primitives primitives(key_of(s, a.dtype, Conv2dPass::kBackwardWeights), slices);
  const WeightMemory m(stream, s, slices, primitives, memory);
  parallel_chunks(stream, slices.count(), [&](std::int64_t slice, int thread) {
    const onednn::Convolution& primitive = primitives.of(slices, slice);
    std::byte* const packed = m.packed + static_cast<std::size_t>(thread) * m.packed_stride;
    primitive.execute({.x = offset(a.x, slices.begin(slice) * x_per_image(s), a.dtype),
                       .grad_y = offset(a.grad_y, slices.begin(slice) * y_per_image(s), a.dtype),
                       .result = packed,
                       .scratch = m.scratch + static_cast<std::size_t>(thread) * m.scratch_stride});
    primitive.unpack_grad_weight(packed, m.partial + static_cast<std::size_t>(slice) * m.partial_stride);
  });
  float* const result = static_cast<float*>(a.grad_weight);
  const auto stride = static_cast<std::int64_t>(m.partial_stride / sizeof(float));
  const float* const partial = reinterpret_cast<const float*>(m.partial);
  parallel_for(stream, s.num_weight(), 1 << 14, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      float sum = partial[i];
      for (std::int64_t slice = 1; slice < slices.count(); ++slice) sum += partial[slice * stride + i];
      result[i] = a.weight_mode == GradMode::kAccumulate ? result[i] + sum : sum;
    }
  });
}

Slices slices_of(const Conv2dShape& s, DType dtype, Conv2dPass pass) {
  return pass == Conv2dPass::kBackwardWeights ? weight_slices(s) : activation_slices(s, dtype);
}

}  // namespace

void conv2d_forward(CpuStream stream, const Conv2dForwardArgs& a) {
  const Conv2dShape& s = a.shape;
  check_shape(s);
  if (s.num_y() == 0) return;
  const Slices slices = activation_slices(s, a.dtype);
  if (winograd::supports(s, a.dtype, Conv2dPass::kForward)) return winograd::forward(stream, a, slices.size);
  onednn::ConvolutionKey key = key_of(s, a.dtype, Conv2dPass::kForward);
  key.bias = a.bias != nullptr;
  const Primitives primitives(key, slices);
  if (!primitives.complete) {
    dispatch_float(a.dtype, [&]<class T>(std::type_identity<T>) { plain_forward<T>(stream, a); });
    return;
  }
  Scratch memory(a.workspace);
  const ActivationMemory m(stream, primitives, 0, memory);
  m.pack(primitives, a.weight);
  parallel_chunks(stream, slices.count(), [&](std::int64_t slice, int thread) {
    primitives.of(slices, slice)
        .execute({.x = offset(a.x, slices.begin(slice) * x_per_image(s), a.dtype),
                  .weight = slices.whole(slice) ? m.packed_whole : m.packed_last,
                  .bias = a.bias,
                  .result = offset(a.y, slices.begin(slice) * y_per_image(s), a.dtype),
                  .scratch = m.scratch + static_cast<std::size_t>(thread) * m.scratch_stride});
  });
}

void conv2d_backward_data(CpuStream stream, const Conv2dBackwardDataArgs& a) {
  const Conv2dShape& s = a.shape;
  check_shape(s);
  if (s.num_x() == 0) return;
  const Slices slices = activation_slices(s, a.dtype);
  if (winograd::supports(s, a.dtype, Conv2dPass::kBackwardData)) {
    return winograd::backward_data(stream, a, slices.size);
  }
  onednn::ConvolutionKey key = key_of(s, a.dtype, Conv2dPass::kBackwardData);
  const bool add = a.mode == GradMode::kAccumulate;
  if (add) key.result = accumulator_of(a.dtype);
  const Primitives primitives(key, slices);
  if (!primitives.complete) {
    dispatch_float(a.dtype, [&]<class T>(std::type_identity<T>) { plain_backward_data<T>(stream, a); });
    return;
  }
  Scratch memory(a.workspace);
  const ActivationMemory m(stream, primitives, add ? added_slice_bytes(s, slices) : 0, memory);
  m.pack(primitives, a.weight);
  parallel_chunks(stream, slices.count(), [&](std::int64_t slice, int thread) {
    const auto t = static_cast<std::size_t>(thread);
    const std::int64_t first = slices.begin(slice);
    std::byte* const target = offset(a.grad_x, first * x_per_image(s), a.dtype);
    std::byte* const mine = m.slice + t * m.slice_stride;
    primitives.of(slices, slice)
        .execute({.weight = slices.whole(slice) ? m.packed_whole : m.packed_last,
                  .grad_y = offset(a.grad_y, first * y_per_image(s), a.dtype),
                  .result = add ? mine : target,
                  .scratch = m.scratch + t * m.scratch_stride});
    const std::int64_t images = std::min(slices.size, s.n - first);
    if (add) add_f32(reinterpret_cast<const float*>(mine), images * x_per_image(s), target, a.dtype);
  });
}

void conv2d_backward_weights(CpuStream stream, const Conv2dBackwardWeightsArgs& a) {
  const Conv2dShape& s = a.shape;
  check_shape(s);
  Scratch memory(a.workspace);
  if (a.grad_bias != nullptr) {
    const std::int64_t rows = s.n * s.out_h() * s.out_w();
    std::byte* const sums = memory.take(cpu::column_sum_workspace(rows, s.k, accumulator_of(a.dtype)));
    dispatch_float(a.dtype, [&]<class T>(std::type_identity<T>) {
      cpu::column_sum<T>(stream, at<T>(a.grad_y, 0), rows, s.k, static_cast<Accumulator<T>*>(a.grad_bias),
                         a.bias_mode, sums);
    });
  }
  if (a.grad_weight == nullptr) return;
  if (winograd::supports(s, a.dtype, Conv2dPass::kBackwardWeights)) {
    return winograd::backward_weights(stream, a, weight_slices(s).size);
  }
  const Primitives primitives(key_of(s, a.dtype, Conv2dPass::kBackwardWeights), weight_slices(s));
  if (primitives.complete && s.num_y() != 0) {
    onednn_backward_weights(stream, a, memory);
  } else {
    dispatch_float(a.dtype,
                   [&]<class T>(std::type_identity<T>) { plain_backward_weights<T>(stream, a, memory); });
  }
}

std::size_t conv2d_workspace(CpuStream stream, const Conv2dShape& s, DType dtype, Conv2dPass pass, bool) {
  check_shape(s);
  if (s.num_y() == 0) return 0;
  const auto threads = static_cast<std::size_t>(num_threads(stream));
  const Slices slices = slices_of(s, dtype, pass);
  if (winograd::supports(s, dtype, pass)) {
    const std::size_t bytes = winograd::workspace(stream, s, dtype, pass, slices.count());
    if (pass != Conv2dPass::kBackwardWeights) return bytes;
    return std::max(bytes,
                    cpu::column_sum_workspace(s.n * s.out_h() * s.out_w(), s.k, accumulator_of(dtype)));
  }
  onednn::ConvolutionKey key = key_of(s, dtype, pass);
  const Primitives primitives(key, slices);
  Scratch memory;
  if (pass == Conv2dPass::kBackwardWeights) {
    memory.take(cpu::column_sum_workspace(s.n * s.out_h() * s.out_w(), s.k, accumulator_of(dtype)));
    if (primitives.complete) {
      WeightMemory(stream, s, slices, primitives, memory);
    } else {
      memory.take(threads * aligned(static_cast<std::size_t>(s.num_weight() / s.k) * sizeof(double)));
    }
    return memory.used();
  }
  const std::size_t plain = threads * aligned(static_cast<std::size_t>(s.c) * size_of(accumulator_of(dtype)));
  if (!primitives.complete) return plain;
  // Overwriting and adding, with and without a bias: the larger of the two primitives serves both.
  Scratch other;
  ActivationMemory(stream, primitives, 0, memory);
  if (pass == Conv2dPass::kForward) {
    key.bias = true;
  } else {
    key.result = accumulator_of(dtype);
  }
  ActivationMemory(stream, Primitives(key, slices),
                   pass == Conv2dPass::kBackwardData ? added_slice_bytes(s, slices) : 0, other);
  return std::max({memory.used(), other.used(), plain});
}

std::string conv2d_implementation(CpuStream, const Conv2dShape& s, DType dtype, Conv2dPass pass) {
  check_shape(s);
  if (winograd::supports(s, dtype, pass)) return winograd::implementation(s, dtype, pass);
  const Primitives primitives(key_of(s, dtype, pass), slices_of(s, dtype, pass));
  return primitives.complete && s.n > 0 ? primitives.any().implementation() : "plain";
}

}  // namespace cohort::kernels
