// Decoupled knowledge distillation from a fixed teacher, added to a student's loss and gradient:
//
//   x = z / T;  b = softmax(x)[y];  q = softmax of x over the classes other than y
//   TCKD = mean T^2 (b_t ln(b_t / b_s) + (1 - b_t) ln((1 - b_t) / (1 - b_s)))
//   NCKD = mean T^2 sum_{c != y} q_t,c (ln q_t,c - ln q_s,c),  0 ln 0 = 0
//   value = factor (alpha TCKD + beta NCKD),  factor = min((epoch + 1) / warmup, 1), 1 without an epoch
//   loss += value, kl += value
//   d value / d z_s,y = factor T / rows alpha (b_s - b_t)
//   d value / d z_s,c = factor T / rows (beta (q_s,c - q_t,c) - alpha (b_s - b_t) q_s,c)   for c != y
//
// Shapes: student, teacher, grad_student (rows, classes), row-major, dtype f32, bf16 or f64; labels (rows)
//   i32; epoch (1) i32, counted from 0; loss, kl, tckd, nckd: scalars of A = accumulator_of(dtype). No
//   alignment is assumed. Null loss, kl, tckd, nckd, grad_student: not written.
// Contract: outputs alias nothing. Deterministic: rows in fixed chunks, chunks summed in order in double.
//   Capture safe. Rows from valid_rows on (i32 scalar, null: all) do not count and have gradient 0
//   (kAccumulate: keep theirs). The logarithms of b and 1 - b are not taken of less than 1e-12; the gradient
//   is that of the formula all the same. A label outside [0, classes): NaN.
// Identity: T^2 KL(softmax x_t || softmax x_s) = TCKD + (1 - b_t) NCKD per row.
// Bytes: reads 2 rows * classes * size_of(dtype) (the GPU three times, from its caches), writes half of it.
// Source: Zhao et al., "Decoupled knowledge distillation", CVPR 2022, and its code.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct DkdLossArgs {
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t classes = 0;  // at least 2
  double temperature = 4;
  double alpha = 1;
  double beta = 8;
  double warmup = 0;  // epochs; 0: none

  const void* student = nullptr;
  const void* teacher = nullptr;
  const std::int32_t* labels = nullptr;
  const std::int32_t* epoch = nullptr;
  const std::int32_t* valid_rows = nullptr;

  void* grad_student = nullptr;
  GradMode grad_mode = GradMode::kOverwrite;
  void* loss = nullptr;  // added to
  void* kl = nullptr;    // added to
  void* tckd = nullptr;
  void* nckd = nullptr;
};

// By the formula above.
inline Traffic traffic(const DkdLossArgs& a) {
  const std::int64_t count = a.rows * a.classes;
  return {2 * bytes_of(a.dtype, count) + 4 * a.rows +
          (a.grad_student == nullptr ? 0 : written(a.dtype, count, a.grad_mode))};
}

std::size_t dkd_loss_workspace(CpuStream stream, std::int64_t rows);
std::size_t dkd_loss_workspace(CudaStream stream, std::int64_t rows);

void dkd_loss(CpuStream stream, const DkdLossArgs& args, Workspace workspace);
void dkd_loss(CudaStream stream, const DkdLossArgs& args, Workspace workspace);

}  // namespace cohort::kernels
