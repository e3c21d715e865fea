// Which way each pass takes on a GPU, best first:
//   direct    the engine's plan for exactly these operands and this result
//   mixed     bf16 operands, f32 result (a bias, or the gradient of a weight, which is kept in f32)
//   stem      the gradient of a first layer's bf16 weights, few channels: our own kernel
//   widened   as mixed, through f32 copies of the operands in the workspace: TF32 holds every bf16 value, so
//             that no rounding is added
//   plain     our own loops: f64, operands that are not 16-byte aligned, and whatever the engine cannot do
//             deterministically
#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/conv2d.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cuda/conv2d_plain.h"
#include "kernels/cuda/conv2d_stem.h"
#include "kernels/cuda/convolution_engine.h"
#include "kernels/cuda/epilogue.h"
#include "kernels/matmul.h"

namespace cohort::kernels {
namespace {

using cpu::Scratch;
using cuda::Convolution;
using cuda::ConvolutionKey;

void check_shape(const Conv2dShape& s) {
  check(s.n >= 0 && s.c > 0 && s.k > 0 && s.groups > 0 && s.c % s.groups == 0 && s.k % s.groups == 0 &&
            s.stride > 0 && s.dilation > 0 && s.kh > 0 && s.kw > 0 && s.padding >= 0,
        "conv2d: malformed shape");
}

bool is_empty(const Conv2dShape& s) {
  return s.num_x() == 0 || s.num_y() == 0;
}

bool aligned(std::initializer_list<const void*> operands) {
  std::uintptr_t all = 0;
  for (const void* operand : operands) all |= reinterpret_cast<std::uintptr_t>(operand);
  return all % 16 == 0;
}

const Convolution* direct(CudaStream stream, const Conv2dShape& shape, DType dtype, Conv2dPass pass,
                          bool accumulate = false) {
  if (dtype == DType::f64 || is_empty(shape)) return nullptr;
  return cuda::convolution(stream, {.shape = shape,
                                    .dtype = dtype,
                                    .result = dtype,
                                    .pass = pass,
                                    .tf32 = stream.tf32 && dtype == DType::f32,
                                    .accumulate = accumulate});
}

// bf16 operands, f32 result.
struct MixedPass {
  const Convolution* convolution = nullptr;
  bool widened = false;

  MixedPass(CudaStream stream, const Conv2dShape& shape, Conv2dPass pass) {
    if (is_empty(shape)) return;
    ConvolutionKey key{.shape = shape, .dtype = DType::bf16, .result = DType::f32, .pass = pass};
    convolution = cuda::convolution(stream, key);
    if (convolution != nullptr) return;
    widened = true;
    key.dtype = DType::f32;
    key.tf32 = true;
    convolution = cuda::convolution(stream, key);
  }

  std::size_t workspace_bytes(std::int64_t first, std::int64_t second) const {
    Scratch memory;
    take(memory, first, second);
    return memory.used();
  }

  // Widens where needed and runs; `first` and `second` name the two operands of the pass in `pointers`.
  void enqueue(CudaStream stream, Scratch& memory, Convolution::Pointers pointers,
               const void* Convolution::Pointers::*first, std::int64_t first_count,
               const void* Convolution::Pointers::*second, std::int64_t second_count) const {
    const Memory m = take(memory, first_count, second_count);
    if (widened) {
      cuda::widen(stream, pointers.*first, m.first, first_count);
      cuda::widen(stream, pointers.*second, m.second, second_count);
      pointers.*first = m.first;
      pointers.*second = m.second;
    }
    pointers.workspace = m.engine;
    convolution->enqueue(stream, pointers);
  }

 private:
  struct Memory {
    float* first = nullptr;
    float* second = nullptr;
    std::byte* engine = nullptr;
  };
  Memory take(Scratch& memory, std::int64_t first, std::int64_t second) const {
    Memory m;
    if (widened) {
      m.first = memory.take<float>(first);
      m.second = memory.take<float>(second);
    }
    m.engine = memory.take(convolution == nullptr ? 0 : convolution->workspace_bytes());
    return m;
  }
};

std::size_t bytes_of(const Convolution* convolution) {
  return convolution == nullptr ? 0 : cpu::aligned(convolution->workspace_bytes());
}

ColumnSumArgs bias_sums(const Conv2dShape& s, DType dtype) {
  return {.rows = s.n * s.out_h() * s.out_w(), .columns = s.k, .dtype = dtype};
}

std::size_t backward_weights_workspace(CudaStream stream, const Conv2dShape& s, DType dtype, bool bias) {
  const std::size_t sums = bias ? column_sum_workspace(stream, bias_sums(s, dtype)) : 0;
  std::size_t weights = 0;
  if (dtype == DType::bf16 && cuda::is_stem(s)) {
    weights = cpu::aligned(cuda::stem_workspace(s));
  } else if (dtype == DType::bf16) {
    const MixedPass mixed(stream, s, Conv2dPass::kBackwardWeights);
    weights = cpu::aligned(static_cast<std::size_t>(s.num_weight()) * sizeof(float)) +
              mixed.workspace_bytes(s.num_x(), s.num_y());
  } else {
    for (const bool accumulate : {false, true}) {
      weights =
          std::max(weights, bytes_of(direct(stream, s, dtype, Conv2dPass::kBackwardWeights, accumulate)));
    }
  }
  return std::max(sums, weights);
}

}  // namespace

void conv2d_forward(CudaStream stream, const Conv2dForwardArgs& a) {
  const Rehearsed rehearsed(stream, "conv2d_forward", traffic(a));
  const Conv2dShape& s = a.shape;
  check_shape(s);
  if (s.num_y() == 0) return;
  if (!aligned({a.x, a.weight, a.y})) return cuda::plain_conv2d_forward(stream, a);
  Scratch memory(a.workspace);
  if (a.bias != nullptr && a.dtype == DType::bf16) {
    const MixedPass mixed(stream, s, Conv2dPass::kForward);
    if (mixed.convolution != nullptr) {
      float* const sums = memory.take<float>(s.num_y());
      mixed.enqueue(stream, memory, {.x = a.x, .weight = a.weight, .result = sums}, &Convolution::Pointers::x,
                    s.num_x(), &Convolution::Pointers::weight, s.num_weight());
      return cuda::finish(stream, {.rows = s.num_y() / s.k,
                                   .columns = s.k,
                                   .dtype = a.dtype,
                                   .sums = sums,
                                   .bias = a.bias,
                                   .result = a.y});
    }
  }
  const Convolution* const convolution =
      a.bias == nullptr || a.dtype == DType::f32 ? direct(stream, s, a.dtype, Conv2dPass::kForward) : nullptr;
  if (convolution == nullptr) return cuda::plain_conv2d_forward(stream, a);
  convolution->enqueue(stream, {.x = a.x,
                                .weight = a.weight,
                                .result = a.y,
                                .workspace = memory.take(convolution->workspace_bytes())});
  if (a.bias == nullptr) return;
  cuda::finish(stream, {.rows = s.num_y() / s.k,
                        .columns = s.k,
                        .dtype = a.dtype,
                        .sums = a.y,
                        .bias = a.bias,
                        .result = a.y});
}

void conv2d_backward_data(CudaStream stream, const Conv2dBackwardDataArgs& a) {
  const Rehearsed rehearsed(stream, "conv2d_backward_data", traffic(a));
  check_shape(a.shape);
  if (a.shape.num_x() == 0) return;
  if (!aligned({a.grad_y, a.weight, a.grad_x})) return cuda::plain_conv2d_backward_data(stream, a);
  const Convolution* const convolution =
      direct(stream, a.shape, a.dtype, Conv2dPass::kBackwardData, a.mode == GradMode::kAccumulate);
  if (convolution == nullptr) return cuda::plain_conv2d_backward_data(stream, a);
  Scratch memory(a.workspace);
  convolution->enqueue(stream, {.weight = a.weight,
                                .grad_y = a.grad_y,
                                .result = a.grad_x,
                                .workspace = memory.take(convolution->workspace_bytes())});
}

void conv2d_backward_weights(CudaStream stream, const Conv2dBackwardWeightsArgs& a) {
  const Rehearsed rehearsed(stream, "conv2d_backward_weights", traffic(a));
  const Conv2dShape& s = a.shape;
  check_shape(s);
  if (a.grad_bias != nullptr) {
    ColumnSumArgs sums = bias_sums(s, a.dtype);
    sums.x = a.grad_y;
    sums.sums = a.grad_bias;
    sums.mode = a.bias_mode;
    sums.workspace = a.workspace;
    column_sum(stream, sums);
  }
  if (a.grad_weight == nullptr) return;
  if (a.dtype == DType::bf16 && cuda::is_stem(s)) return cuda::stem_backward_weights(stream, a);
  if (!aligned({a.x, a.grad_y, a.grad_weight})) return cuda::plain_conv2d_backward_weights(stream, a);
  const bool accumulate = a.weight_mode == GradMode::kAccumulate;
  Scratch memory(a.workspace);
  if (a.dtype == DType::bf16) {
    const MixedPass mixed(stream, s, Conv2dPass::kBackwardWeights);
    if (mixed.convolution == nullptr) return cuda::plain_conv2d_backward_weights(stream, a);
    float* const sums = memory.take<float>(s.num_weight());
    void* const result = accumulate ? sums : a.grad_weight;
    mixed.enqueue(stream, memory, {.x = a.x, .grad_y = a.grad_y, .result = result}, &Convolution::Pointers::x,
                  s.num_x(), &Convolution::Pointers::grad_y, s.num_y());
    if (!accumulate) return;
    return cuda::finish(stream, {.rows = s.k,
                                 .columns = s.num_weight() / s.k,
                                 .sums = sums,
                                 .result = a.grad_weight,
                                 .mode = GradMode::kAccumulate});
  }
  const Convolution* const convolution = direct(stream, s, a.dtype, Conv2dPass::kBackwardWeights, accumulate);
  if (convolution == nullptr) return cuda::plain_conv2d_backward_weights(stream, a);
  convolution->enqueue(stream, {.x = a.x,
                                .grad_y = a.grad_y,
                                .result = a.grad_weight,
                                .workspace = memory.take(convolution->workspace_bytes())});
}

std::size_t conv2d_workspace(CudaStream stream, const Conv2dShape& s, DType dtype, Conv2dPass pass,
                             bool bias) {
  check_shape(s);
  switch (pass) {
    case Conv2dPass::kForward: {
      if (!bias || dtype != DType::bf16) return bytes_of(direct(stream, s, dtype, pass));
      const MixedPass mixed(stream, s, pass);
      return cpu::aligned(static_cast<std::size_t>(s.num_y()) * sizeof(float)) +
             mixed.workspace_bytes(s.num_x(), s.num_weight());
    }
    case Conv2dPass::kBackwardData:
      return std::max(bytes_of(direct(stream, s, dtype, pass, false)),
                      bytes_of(direct(stream, s, dtype, pass, true)));
    case Conv2dPass::kBackwardWeights:
      break;
  }
  return backward_weights_workspace(stream, s, dtype, bias);
}

std::string conv2d_implementation(CudaStream stream, const Conv2dShape& s, DType dtype, Conv2dPass pass) {
  check_shape(s);
  if (dtype == DType::bf16 && pass == Conv2dPass::kBackwardWeights) {
    if (cuda::is_stem(s)) return "stem";
    const MixedPass mixed(stream, s, pass);
    if (mixed.convolution == nullptr) return "plain";
    return mixed.convolution->implementation() + (mixed.widened ? " (f32 copies)" : "");
  }
  const Convolution* const convolution = direct(stream, s, dtype, pass);
  return convolution == nullptr ? "plain" : convolution->implementation();
}

}  // namespace cohort::kernels
