// Logits of every sample brought to mean 0 and one deviation, and the gradient of that.
//
//   m = mean_c z_c;  v = mean_c (z_c - m)^2;  r = 1 / sqrt(v + epsilon);  u_c = (z_c - m) r
//   y_c    = factor u_c
//   grad_z = factor r (g - mean_c g - u mean_c (g u)),  g = grad_y
//
// Shapes: logits, standardised and their gradients (rows, classes), row-major, dtype f32, bf16 or f64; sums
// in
//   A = accumulator_of(dtype). No alignment is assumed.
// Contract: outputs alias nothing. Deterministic: a row is one thread's (CPU) or one warp's, its sums in a
// fixed order.
//   Capture safe, no workspace. Rows do not touch each other: a NaN stays in its row. Logits that are all
//   equal give 0, and the gradient stays finite: r <= 1 / sqrt(epsilon). Adding a constant to a row, or
//   multiplying it, changes nothing up to epsilon and rounding.
// Bytes: forward 2 rows * classes * size_of(dtype) (the input three times, again from the caches); backward 3
//   (and the two inputs again).
// Source: code of SHAKE (Li & Jin, NeurIPS 2022; factor 3.1415) and NORM (Liu et al., ICLR 2023; 2.5), which
//   standardise logits before every loss.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct LogitStandardiseArgs {
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t classes = 0;  // at least 1
  double factor = 1;
  double epsilon = 1e-7;
  const void* logits = nullptr;
  void* standardised = nullptr;
};

struct LogitStandardiseBackwardArgs {
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t classes = 0;
  double factor = 1;
  double epsilon = 1e-7;
  const void* logits = nullptr;
  const void* grad_standardised = nullptr;
  void* grad_logits = nullptr;
  GradMode mode = GradMode::kOverwrite;
};

// By the formulas above.
inline Traffic traffic(const LogitStandardiseArgs& a) {
  const std::int64_t once = bytes_of(a.dtype, a.rows * a.classes);
  return {2 * once, 2 * once};
}
inline Traffic traffic(const LogitStandardiseBackwardArgs& a) {
  const std::int64_t count = a.rows * a.classes;
  return {2 * bytes_of(a.dtype, count) + written(a.dtype, count, a.mode), 5 * bytes_of(a.dtype, count)};
}

void logit_standardise(CpuStream stream, const LogitStandardiseArgs& args);
void logit_standardise(CudaStream stream, const LogitStandardiseArgs& args);
void logit_standardise_backward(CpuStream stream, const LogitStandardiseBackwardArgs& args);
void logit_standardise_backward(CudaStream stream, const LogitStandardiseBackwardArgs& args);

}  // namespace cohort::kernels
