// Elementwise kernels: ReLU and its kin, sums, copies, casts, fills, and the parameter-free shortcut of CIFAR
// ResNets.
//
//   relu_forward    y = x < 0 ? 0 : x            (ReLU(NaN) = NaN, ReLU(-0) = -0)
//   relu_backward   grad_x = y > 0 ? grad_y : 0  (the subgradient at 0 is 0)
//   leaky_relu      y = x < 0 ? slope x : x      backward: grad_x = y > 0 ? grad_y : slope grad_y, slope > 0
//   sigmoid         y = 1 / (1 + exp(-x))        backward: grad_x = y (1 - y) grad_y
//   add             y = a + b
//   scale           y = factor x, or y += factor x (kAccumulate): copy and sum for factor 1, exactly
//   cast            y = x in another floating dtype, rounded to nearest even
//   fill            y = value
//   shortcut_a      y[n, i, j, p + c] = x[n, s i, s j, c], all other channels 0, p = (K - C) / 2; out sides
//                   ceil(H / s), ceil(W / s). Shortcut "A" of He et al., "Deep Residual Learning", 2016,
//                   section 4.2, with the zeros split evenly as the usual CIFAR code does (planes / 4 on each
//                   side)
//
// Shapes: `count` elements, dense; shortcut_a x (N, H, W, C), y (N, ceil(H / s), ceil(W / s), K). f32, bf16
// (computed in f32), f64. No alignment beyond the element's own is assumed. Contract: an output may be any
// input of the same dtype (elementwise kernels only), no partial overlap. No workspace. Deterministic, the
// same bits for any number of threads. Bytes moved: every array named in the formula once, S = count *
// size_of(dtype): activations forward 2 S, backward 3 S, add 3 S, scale 2 S, fill S; + S with kAccumulate;
// cast count * (both sizes); shortcut_a size of y plus the part of x that it reads, backward size of grad_x
// plus the same part of grad_y.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

// Of relu and sigmoid.
struct ActivationForwardArgs {
  DType dtype = DType::f32;
  std::int64_t count = 0;
  const void* x = nullptr;
  void* y = nullptr;
};

struct ActivationBackwardArgs {
  DType dtype = DType::f32;
  std::int64_t count = 0;
  const void* y = nullptr;
  const void* grad_y = nullptr;
  void* grad_x = nullptr;
  GradMode mode = GradMode::kOverwrite;
};

struct LeakyReluForwardArgs {
  DType dtype = DType::f32;
  std::int64_t count = 0;
  const void* x = nullptr;
  void* y = nullptr;
  double slope = 0.01;
};

struct LeakyReluBackwardArgs {
  DType dtype = DType::f32;
  std::int64_t count = 0;
  const void* y = nullptr;
  const void* grad_y = nullptr;
  void* grad_x = nullptr;
  double slope = 0.01;
  GradMode mode = GradMode::kOverwrite;
};

struct AddArgs {
  DType dtype = DType::f32;
  std::int64_t count = 0;
  const void* a = nullptr;
  const void* b = nullptr;
  void* y = nullptr;
};

struct ScaleArgs {
  DType dtype = DType::f32;
  std::int64_t count = 0;
  const void* x = nullptr;
  void* y = nullptr;
  double factor = 1;
  GradMode mode = GradMode::kOverwrite;
};

struct CastArgs {
  DType from = DType::f32;
  DType to = DType::f32;
  std::int64_t count = 0;
  const void* x = nullptr;
  void* y = nullptr;
};

struct FillArgs {
  DType dtype = DType::f32;
  std::int64_t count = 0;
  void* y = nullptr;
  double value = 0;
};

struct ShortcutAShape {
  std::int64_t batch = 0;
  std::int64_t height = 0;  // of x
  std::int64_t width = 0;
  std::int64_t channels_in = 0;
  std::int64_t channels_out = 0;  // >= channels_in
  std::int64_t stride = 1;

  std::int64_t out_height() const { return (height + stride - 1) / stride; }
  std::int64_t out_width() const { return (width + stride - 1) / stride; }
};

struct ShortcutAForwardArgs {
  DType dtype = DType::f32;
  ShortcutAShape shape;
  const void* x = nullptr;
  void* y = nullptr;
};

struct ShortcutABackwardArgs {
  DType dtype = DType::f32;
  ShortcutAShape shape;
  const void* grad_y = nullptr;
  void* grad_x = nullptr;
  GradMode mode = GradMode::kOverwrite;
};

// By the formulas above.
inline Traffic traffic(const ActivationForwardArgs& a) {
  return {2 * bytes_of(a.dtype, a.count)};
}
inline Traffic traffic(const ActivationBackwardArgs& a) {
  return {2 * bytes_of(a.dtype, a.count) + written(a.dtype, a.count, a.mode)};
}
inline Traffic traffic(const LeakyReluForwardArgs& a) {
  return {2 * bytes_of(a.dtype, a.count)};
}
inline Traffic traffic(const LeakyReluBackwardArgs& a) {
  return {2 * bytes_of(a.dtype, a.count) + written(a.dtype, a.count, a.mode)};
}
inline Traffic traffic(const AddArgs& a) {
  return {3 * bytes_of(a.dtype, a.count)};
}
inline Traffic traffic(const ScaleArgs& a) {
  return {bytes_of(a.dtype, a.count) + written(a.dtype, a.count, a.mode)};
}
inline Traffic traffic(const CastArgs& a) {
  return {bytes_of(a.from, a.count) + bytes_of(a.to, a.count)};
}
inline Traffic traffic(const FillArgs& a) {
  return {bytes_of(a.dtype, a.count)};
}
inline Traffic traffic(const ShortcutAForwardArgs& a) {
  const std::int64_t pixels = a.shape.batch * a.shape.out_height() * a.shape.out_width();
  return {bytes_of(a.dtype, pixels * (a.shape.channels_in + a.shape.channels_out))};
}
inline Traffic traffic(const ShortcutABackwardArgs& a) {
  const ShortcutAShape& s = a.shape;
  return {bytes_of(a.dtype, s.batch * s.out_height() * s.out_width() * s.channels_in) +
          written(a.dtype, s.batch * s.height * s.width * s.channels_in, a.mode)};
}

void relu_forward(CpuStream stream, const ActivationForwardArgs& args);
void relu_forward(CudaStream stream, const ActivationForwardArgs& args);
void relu_backward(CpuStream stream, const ActivationBackwardArgs& args);
void relu_backward(CudaStream stream, const ActivationBackwardArgs& args);
void leaky_relu_forward(CpuStream stream, const LeakyReluForwardArgs& args);
void leaky_relu_forward(CudaStream stream, const LeakyReluForwardArgs& args);
void leaky_relu_backward(CpuStream stream, const LeakyReluBackwardArgs& args);
void leaky_relu_backward(CudaStream stream, const LeakyReluBackwardArgs& args);
void sigmoid_forward(CpuStream stream, const ActivationForwardArgs& args);
void sigmoid_forward(CudaStream stream, const ActivationForwardArgs& args);
void sigmoid_backward(CpuStream stream, const ActivationBackwardArgs& args);
void sigmoid_backward(CudaStream stream, const ActivationBackwardArgs& args);
void add(CpuStream stream, const AddArgs& args);
void add(CudaStream stream, const AddArgs& args);
void scale(CpuStream stream, const ScaleArgs& args);
void scale(CudaStream stream, const ScaleArgs& args);
void cast(CpuStream stream, const CastArgs& args);
void cast(CudaStream stream, const CastArgs& args);
void fill(CpuStream stream, const FillArgs& args);
void fill(CudaStream stream, const FillArgs& args);
void shortcut_a_forward(CpuStream stream, const ShortcutAForwardArgs& args);
void shortcut_a_forward(CudaStream stream, const ShortcutAForwardArgs& args);
void shortcut_a_backward(CpuStream stream, const ShortcutABackwardArgs& args);
void shortcut_a_backward(CudaStream stream, const ShortcutABackwardArgs& args);

}  // namespace cohort::kernels
