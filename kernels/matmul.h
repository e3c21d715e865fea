// Matrix product, for linear layers, and the column sums that are the gradient of a bias.
//
//   matmul:      C[i,j] = (kAccumulate: C[i,j] +) bias[j] + sum_p op(A)[i,p] op(B)[p,j]
//   column_sum:  sums[j] = (kAccumulate: sums[j] +) sum_i x[i,j]
//
// A linear layer with weight W (K,C) is y = x W^T + b, grad_x = grad_y W, grad_W = grad_y^T x, grad_b =
// column_sum(grad_y).
//
// Layout: dense row-major; op(A) is (m,k), stored as (k,m) when transpose_a; op(B) is (k,n), stored as (n,k)
// when transpose_b; C (m,n); bias (n) of accumulator_of(c_dtype). Each matrix has its own dtype of f32 and
// bf16 (products and sums in f32, one rounding at the end), or all three are f64.
//
// Contract: C and `sums` alias no input; `workspace` holds the bytes that the size function asks for. Sums
// are formed in an order that depends on the shape only: the bits do not depend on the number of threads.
//
// Work: 2 m n k. Bytes: each matrix once. On the CPU bf16 operands are widened in the workspace first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct MatmulShape {
  std::int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
};

struct MatmulArgs {
  MatmulShape shape;
  DType a_dtype = DType::f32, b_dtype = DType::f32, c_dtype = DType::f32;
  const void* a = nullptr;
  const void* b = nullptr;
  const void* bias = nullptr;  // optional
  void* c = nullptr;
  GradMode mode = GradMode::kOverwrite;
  Workspace workspace = {};
};

void matmul(CpuStream stream, const MatmulArgs& args);
void matmul(CudaStream stream, const MatmulArgs& args);
// Uses the shape and the dtypes only.
std::size_t matmul_workspace(CpuStream stream, const MatmulArgs& args);
std::size_t matmul_workspace(CudaStream stream, const MatmulArgs& args);

struct ColumnSumArgs {
  std::int64_t rows = 0, columns = 0;
  DType dtype = DType::f32;
  const void* x = nullptr;
  void* sums = nullptr;  // accumulator_of(dtype)
  GradMode mode = GradMode::kOverwrite;
  Workspace workspace = {};
};

// By the formulas above.
inline Traffic traffic(const MatmulArgs& a) {
  const MatmulShape& s = a.shape;
  return {bytes_of(a.a_dtype, s.m * s.k) + bytes_of(a.b_dtype, s.k * s.n) +
          written(a.c_dtype, s.m * s.n, a.mode)};
}
inline Traffic traffic(const ColumnSumArgs& a) {
  return {bytes_of(a.dtype, a.rows * a.columns)};
}

void column_sum(CpuStream stream, const ColumnSumArgs& args);
void column_sum(CudaStream stream, const ColumnSumArgs& args);
std::size_t column_sum_workspace(CpuStream stream, const ColumnSumArgs& args);
std::size_t column_sum_workspace(CudaStream stream, const ColumnSumArgs& args);

}  // namespace cohort::kernels
