// Keeps the results of one batch of an evaluation: rows of every member go behind those of the batches
// before.
//
//   out_m[(k * batch_size + r), c] = float(in_m[r, c]),   k = *cursor - 1: the batch that step_feed has just
//   handed out
//
// Shapes: in_m (rows, columns) of `dtype` (f32, bf16, f64), out_m (n, columns) f32, row-major; no overlap.
// The caller sees to k * batch_size + rows <= n. Bytes: rows columns (size_of(dtype) + 4) per member.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"
#include "kernels/cohort_loss.h"

namespace cohort::kernels {

struct AppendRowsArgs {
  DType dtype = DType::f32;
  int members = 0;
  std::array<const void*, kMaxMembers> in{};
  std::array<float*, kMaxMembers> out{};
  const std::int32_t* cursor = nullptr;  // (1)
  std::int64_t rows = 0;
  std::int64_t batch_size = 0;
  std::int64_t columns = 0;
};

// By the formula above.
inline Traffic traffic(const AppendRowsArgs& a) {
  return {a.members * a.rows * a.columns * (bytes_of(a.dtype, 1) + 4)};
}

void append_rows(CpuStream stream, const AppendRowsArgs& args);
void append_rows(CudaStream stream, const AppendRowsArgs& args);

}  // namespace cohort::kernels
