// The seam between matmul on a GPU and whoever multiplies: cuBLASLt in the product (cublaslt_matmul.cpp),
// plain loops behind the emulated device in the tests (tests/simt/vendor). One of the two is linked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/matmul.h"

namespace cohort::kernels::cuda {

// C = (accumulate: C +) op(A) op(B) (+ bias), row-major, one rounding at the end. Operands f32 with an f32
// result, bf16 with an f32 or bf16 result, or f64 throughout; a bias (n) has the result's dtype.
struct MatmulKey {
  MatmulShape shape;
  DType dtype = DType::f32;
  DType result = DType::f32;
  bool bias = false;
  bool accumulate = false;
  bool tf32 = false;
  int alignment = 16;  // in bytes, that every operand has: a power of two, at most 16
};

struct MatmulPointers {
  const void* a = nullptr;
  const void* b = nullptr;
  const void* bias = nullptr;
  void* c = nullptr;
  void* workspace = nullptr;  // matmul_engine_workspace() bytes, 64-byte aligned
};

// The same for every key: the engine chooses among what fits.
std::size_t matmul_engine_workspace();

// Plans on first use (never inside a capture) and enqueues. Same operands, same bits.
void multiply(CudaStream stream, const MatmulKey& key, const MatmulPointers& pointers);

}  // namespace cohort::kernels::cuda
