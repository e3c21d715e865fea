// What the cross-entropy says of every logit, as a value that has a gradient itself.
//
//   r      = (softmax(z) - onehot(label)) / n,  n = valid_rows
//   grad_z = p (g - sum_c p_c g_c) / n,  p = softmax(z), g = grad_r
//
// r' F is the gradient of the mean cross-entropy by the weights of a classifier that reads the features F.
//
// Shapes: logits, residual and their gradients (rows, classes), row-major, f32 or f64; labels (rows) i32;
//   valid_rows: i32 device scalar, null: rows. No alignment is assumed.
// Contract: outputs alias nothing. Rows beyond n have r = 0 and gradient 0 (kAccumulate: keep theirs). A
// label
//   outside [0, classes): NaN. Deterministic: a row is one thread's (CPU) or one warp's, its sums in a fixed
//   order. Capture safe, no workspace.
// Bytes: forward 2 rows * classes * size_of(dtype) (the input three times, again from the caches); backward 3
//   (and the inputs again).
// Source: semantic distance of DisWOT (Dong et al., CVPR 2023), by the chain rule.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct SoftmaxResidualArgs {
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t classes = 0;
  const void* logits = nullptr;
  const std::int32_t* labels = nullptr;
  const std::int32_t* valid_rows = nullptr;
  void* residual = nullptr;
};

struct SoftmaxResidualBackwardArgs {
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t classes = 0;
  const void* logits = nullptr;
  const std::int32_t* valid_rows = nullptr;
  const void* grad_residual = nullptr;
  void* grad_logits = nullptr;
  GradMode mode = GradMode::kOverwrite;
};

// By the formulas above.
inline Traffic traffic(const SoftmaxResidualArgs& a) {
  const std::int64_t once = bytes_of(a.dtype, a.rows * a.classes);
  return {2 * once, 2 * once};
}
inline Traffic traffic(const SoftmaxResidualBackwardArgs& a) {
  const std::int64_t count = a.rows * a.classes;
  return {2 * bytes_of(a.dtype, count) + written(a.dtype, count, a.mode), 4 * bytes_of(a.dtype, count)};
}

void softmax_residual(CpuStream stream, const SoftmaxResidualArgs& args);
void softmax_residual(CudaStream stream, const SoftmaxResidualArgs& args);
void softmax_residual_backward(CpuStream stream, const SoftmaxResidualBackwardArgs& args);
void softmax_residual_backward(CudaStream stream, const SoftmaxResidualBackwardArgs& args);

}  // namespace cohort::kernels
