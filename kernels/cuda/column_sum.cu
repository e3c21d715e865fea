// Column sums of a (rows, columns) matrix in two launches: chunks of kRows rows, then the chunks in order. No
// atomics: the order of every addition follows from the shape.
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/simt.cuh"
#include "kernels/cuda/vec.cuh"
#include "kernels/matmul.h"

namespace cohort::kernels {
namespace {

constexpr int kColumns = 32;  // of a block: one warp reads 32 neighbours
constexpr int kLines = 8;     // threads that share a column's rows
constexpr std::int64_t kRows = 1024;

std::int64_t num_chunks(std::int64_t rows) {
  return (rows + kRows - 1) / kRows;
}

template <class T>
__global__ void chunk_sums(std::int64_t rows, std::int64_t columns, const T* x, Accumulator<T>* partial) {
  using Sum = Accumulator<T>;
  SIMT_SHARED(Sum, lines, [kLines][kColumns]);
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  const std::int64_t chunk = blockIdx.y;
  const std::int64_t end = (chunk + 1) * kRows < rows ? (chunk + 1) * kRows : rows;
  Sum sum = 0;
  if (column < columns) {
    for (std::int64_t row = chunk * kRows + threadIdx.y; row < end; row += kLines) {
      sum += to_float(x[row * columns + column]);
    }
  }
  lines[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
  for (int line = 1; line < kLines; ++line) sum += lines[line][threadIdx.x];
  partial[chunk * columns + column] = sum;
}

template <class Sum>
__global__ void add_chunks(std::int64_t chunks, std::int64_t columns, const Sum* partial, Sum* sums,
                           bool accumulate) {
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  Sum total = 0;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) total += partial[chunk * columns + column];
  sums[column] = accumulate ? sums[column] + total : total;
}

}  // namespace

void column_sum(CudaStream stream, const ColumnSumArgs& a) {
  const Rehearsed rehearsed(stream, "column_sum", traffic(a));
  const std::int64_t chunks = num_chunks(a.rows);
  check(chunks <= 65535, "column_sum: too many rows for one launch");
  check(a.workspace.size() >= column_sum_workspace(stream, a), "column_sum: the workspace is too small");
  dispatch_float(a.dtype, [&]<class T>(std::type_identity<T>) {
    using Sum = Accumulator<T>;
    Sum* const partial = reinterpret_cast<Sum*>(a.workspace.data());
    const auto blocks = static_cast<unsigned>((a.columns + kColumns - 1) / kColumns);
    simt::launch(chunk_sums<T>,
                 {.grid = dim3(blocks, static_cast<unsigned>(chunks)),
                  .block = dim3(kColumns, kLines),
                  .stream = stream},
                 a.rows, a.columns, static_cast<const T*>(a.x), partial);
    simt::launch(add_chunks<Sum>,
                 {.grid = static_cast<unsigned>((a.columns + 127) / 128), .block = 128, .stream = stream},
                 chunks, a.columns, static_cast<const Sum*>(partial), static_cast<Sum*>(a.sums),
                 a.mode == GradMode::kAccumulate);
  });
}

std::size_t column_sum_workspace(CudaStream, const ColumnSumArgs& a) {
  constexpr std::size_t kAlignment = 64;
  const auto values = static_cast<std::size_t>(num_chunks(a.rows) * a.columns);
  return (values * size_of(accumulator_of(a.dtype)) + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace cohort::kernels
