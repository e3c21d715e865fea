// Elementwise passes around the vendor's products, for what its own epilogues do not cover.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"

namespace cohort::kernels::cuda {

// to[i] = from[i], bf16 -> f32, exact. `to` is 16-byte aligned. Bytes: 6 a value.
void widen(CudaStream stream, const void* from, float* to, std::int64_t count);

// result[i,j] = (kAccumulate: result[i,j] +) sums[i,j] + bias[j], rounded once.
// sums (rows, columns) and bias (columns, optional) of accumulator_of(dtype), result (rows, columns) of
// dtype; result may be sums. Bytes: each matrix once.
struct FinishArgs {
  std::int64_t rows = 0, columns = 0;
  DType dtype = DType::f32;
  const void* sums = nullptr;
  const void* bias = nullptr;
  void* result = nullptr;
  GradMode mode = GradMode::kOverwrite;
};
void finish(CudaStream stream, const FinishArgs& args);

}  // namespace cohort::kernels::cuda
