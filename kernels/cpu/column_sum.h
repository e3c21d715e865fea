// Sums over the rows of a (rows, columns) matrix, the gradient of a bias: chunks of kRows rows in parallel,
// their sums added in chunk order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/cpu/parallel.h"

namespace cohort::kernels::cpu {

inline constexpr std::int64_t kColumnSumRows = 1024;

// For a result of `result` dtype.
inline std::size_t column_sum_workspace(std::int64_t rows, std::int64_t columns, DType result) {
  return static_cast<std::size_t>(ceil_div(rows, kColumnSumRows) * columns) * size_of(result);
}

template <class T>
void column_sum(CpuStream stream, const T* x, std::int64_t rows, std::int64_t columns, Accumulator<T>* sums,
                GradMode mode, std::byte* workspace) {
  using Sum = Accumulator<T>;
  Sum* const partial = reinterpret_cast<Sum*>(workspace);
  const std::int64_t num_chunks = ceil_div(rows, kColumnSumRows);
  parallel_chunks(stream, num_chunks, [&](std::int64_t chunk, int) {
    Sum* const mine = partial + chunk * columns;
    std::fill_n(mine, columns, Sum{0});
    const std::int64_t end = std::min(rows, (chunk + 1) * kColumnSumRows);
    for (std::int64_t row = chunk * kColumnSumRows; row < end; ++row) {
      const T* const values = x + row * columns;
#pragma omp simd
      for (std::int64_t j = 0; j < columns; ++j) mine[j] += static_cast<Sum>(values[j]);
    }
  });
  for (std::int64_t j = 0; j < columns; ++j) {
    Sum total = 0;
    for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk) total += partial[chunk * columns + j];
    sums[j] = mode == GradMode::kAccumulate ? sums[j] + total : total;
  }
}

}  // namespace cohort::kernels::cpu
