// Distance of two networks' relations between the samples of a batch, and its gradient.
//
//   H = G with every row divided by its length (rows shorter than 1e-12: 0)
//   value  = sum_ij (H_s - H_t)_ij^2 / n^2
//   loss  += weight value
//   grad_i = weight (E_i - H_i <H_i, E_i>) / |G_i|,  E = 2 (H_s - H_t) / n^2:  d value / d G_s; 0 for short
//   rows
//
// Shapes: student, teacher, grad_student (rows, rows), row-major: Gram matrices F F' of flattened maps, so
// that
//   d value / d F_s = (grad + grad') F_s; f32 or f64; weight, value, loss: device scalars of the same type.
//   n = valid_rows (i32 device scalar, null: rows): rows and columns beyond do not count, their gradient is
//   0.
// Contract: outputs alias nothing; grad_student, value and loss may be null. Deterministic: a row in a fixed
//   order, rows in fixed chunks, summed in double. Capture safe. Workspace: relation_loss_workspace(rows).
// Bytes: both matrices once and again (from the caches), the gradient once.
// Source: relation distance of DisWOT (Dong et al., CVPR 2023).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/error.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct RelationLossArgs {
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  const void* student = nullptr;
  const void* teacher = nullptr;
  const void* weight = nullptr;
  const std::int32_t* valid_rows = nullptr;

  void* grad_student = nullptr;
  void* value = nullptr;
  void* loss = nullptr;  // added to
};

inline void validate(const RelationLossArgs& args) {
  check(args.rows >= 0, "relation_loss: rows must not be negative");
  check(args.student != nullptr && args.teacher != nullptr && args.weight != nullptr,
        "relation_loss: an operand is missing");
}

// By the formulas above.
inline Traffic traffic(const RelationLossArgs& a) {
  const std::int64_t matrix = bytes_of(a.dtype, a.rows * a.rows);
  return {(a.grad_student == nullptr ? 2 : 3) * matrix, 4 * matrix};
}

std::size_t relation_loss_workspace(CpuStream stream, std::int64_t rows);
std::size_t relation_loss_workspace(CudaStream stream, std::int64_t rows);

void relation_loss(CpuStream stream, const RelationLossArgs& args, Workspace workspace);
void relation_loss(CudaStream stream, const RelationLossArgs& args, Workspace workspace);

}  // namespace cohort::kernels
