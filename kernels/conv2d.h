// Two-dimensional convolution (cross-correlation, as in every deep-learning framework) and its two gradients.
//
//   y[n,p,q,k] = bias[k] + sum_{r,s,c} x[n, h, w, g*C/G + c] * weight[k,r,s,c],   g = k / (K/G),
//                h = p*stride - padding + r*dilation,  w = q*stride - padding + s*dilation
//   grad_x      = the transposed map applied to grad_y
//   grad_weight = sum over n, p, q of grad_y[n,p,q,k] * x[...];  grad_bias[k] = sum of grad_y[...,k]
//
// Layout: x, grad_x (N,H,W,C), y, grad_y (N,out_h,out_w,K), weight, grad_weight (K,kh,kw,C/groups), bias (K),
// all dense. x, y, grad_x, grad_y and weight have `dtype` (f32, bf16, f64); bias and both parameter gradients
// have accumulator_of(dtype). bf16 products are summed in f32.
//
// Contract: no aliasing between inputs and outputs; `workspace` holds at least conv2d_workspace(...) bytes of
// the same pass. Every sum is formed in an order that depends on the shape only, so the bits do not depend on
// the number of threads. The first call for a shape creates and caches what it needs (jit code, plans); later
// ones allocate nothing.
//
// Work: conv2d_flops per pass (2 N P Q K R S C/G). Bytes: x + weight + y of their dtypes, once each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct Conv2dShape {
  std::int64_t n = 0, h = 0, w = 0, c = 0, k = 0;
  int kh = 1, kw = 1, stride = 1, padding = 0, dilation = 1, groups = 1;

  constexpr std::int64_t out_h() const { return out_extent(h, kh); }
  constexpr std::int64_t out_w() const { return out_extent(w, kw); }
  constexpr std::int64_t num_x() const { return n * h * w * c; }
  constexpr std::int64_t num_y() const { return n * out_h() * out_w() * k; }
  constexpr std::int64_t num_weight() const { return k * kh * kw * (c / groups); }
  auto operator<=>(const Conv2dShape&) const = default;

 private:
  constexpr std::int64_t out_extent(std::int64_t size, int kernel) const {
    const std::int64_t room = size + 2 * std::int64_t{padding} - std::int64_t{dilation} * (kernel - 1) - 1;
    return room < 0 ? 0 : room / stride + 1;
  }
};

constexpr std::int64_t conv2d_flops(const Conv2dShape& s) {
  return 2 * s.num_y() * s.kh * s.kw * (s.c / s.groups);
}

enum class Conv2dPass : std::uint8_t { kForward, kBackwardData, kBackwardWeights };

struct Conv2dForwardArgs {
  Conv2dShape shape;
  DType dtype = DType::f32;
  const void* x = nullptr;
  const void* weight = nullptr;
  const void* bias = nullptr;  // optional
  void* y = nullptr;
  Workspace workspace = {};
};

struct Conv2dBackwardDataArgs {
  Conv2dShape shape;
  DType dtype = DType::f32;
  const void* grad_y = nullptr;
  const void* weight = nullptr;
  void* grad_x = nullptr;
  GradMode mode = GradMode::kOverwrite;
  Workspace workspace = {};
};

struct Conv2dBackwardWeightsArgs {
  Conv2dShape shape;
  DType dtype = DType::f32;
  const void* x = nullptr;
  const void* grad_y = nullptr;
  void* grad_weight = nullptr;  // optional when only the bias learns
  GradMode weight_mode = GradMode::kOverwrite;
  void* grad_bias = nullptr;  // optional
  GradMode bias_mode = GradMode::kOverwrite;
  Workspace workspace = {};
};

// By the formulas above.
inline Traffic traffic(const Conv2dForwardArgs& a) {
  return {bytes_of(a.dtype, a.shape.num_x() + a.shape.num_weight() + a.shape.num_y())};
}
inline Traffic traffic(const Conv2dBackwardDataArgs& a) {
  return {bytes_of(a.dtype, a.shape.num_y() + a.shape.num_weight()) +
          written(a.dtype, a.shape.num_x(), a.mode)};
}
inline Traffic traffic(const Conv2dBackwardWeightsArgs& a) {
  if (a.grad_weight == nullptr) return {};  // column_sum speaks for the bias
  return {bytes_of(a.dtype, a.shape.num_x() + a.shape.num_y()) +
          written(accumulator_of(a.dtype), a.shape.num_weight(), a.weight_mode)};
}

void conv2d_forward(CpuStream stream, const Conv2dForwardArgs& args);
void conv2d_forward(CudaStream stream, const Conv2dForwardArgs& args);
void conv2d_backward_data(CpuStream stream, const Conv2dBackwardDataArgs& args);
void conv2d_backward_data(CudaStream stream, const Conv2dBackwardDataArgs& args);
void conv2d_backward_weights(CpuStream stream, const Conv2dBackwardWeightsArgs& args);
void conv2d_backward_weights(CudaStream stream, const Conv2dBackwardWeightsArgs& args);

// `bias`: whether forward has one, or backward weights wants its gradient.
std::size_t conv2d_workspace(CpuStream stream, const Conv2dShape& shape, DType dtype, Conv2dPass pass,
                             bool bias = true);
std::size_t conv2d_workspace(CudaStream stream, const Conv2dShape& shape, DType dtype, Conv2dPass pass,
                             bool bias = true);

// The code that runs this pass, for `doctor` and for the check at start-up that no layer of a training run
// falls to a slow path: one whose name holds "ref", "gemm" or "plain".
std::string conv2d_implementation(CpuStream stream, const Conv2dShape& shape, DType dtype, Conv2dPass pass);
std::string conv2d_implementation(CudaStream stream, const Conv2dShape& shape, DType dtype, Conv2dPass pass);

}  // namespace cohort::kernels
