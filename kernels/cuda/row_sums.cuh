// Launches of a warp per row whose rows add up to one number.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/base/error.h"
#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/simt.cuh"

namespace cohort::kernels {

inline constexpr int kRowWarps = 4;
inline constexpr int kMaxRowBlocks = 1024;
inline constexpr int kMaxRowBranches = 64;

// `most`: blocks of a launch; with more rows every warp takes several.
inline std::int64_t row_blocks(std::int64_t rows, std::int64_t most = kMaxRowBlocks) {
  return std::clamp<std::int64_t>((rows + kRowWarps - 1) / kRowWarps, 1, most);
}
inline std::size_t row_sums_workspace(std::int64_t rows, std::int64_t most = kMaxRowBlocks) {
  return static_cast<std::size_t>(row_blocks(rows, most)) * sizeof(double);
}
inline simt::LaunchConfig row_sums_config(CudaStream stream, std::int64_t rows,
                                          std::int64_t most = kMaxRowBlocks) {
  check(stream.branch >= 0 && stream.branch < kMaxRowBranches, "row_sums: no such branch");
  return {
      .grid = static_cast<unsigned>(row_blocks(rows, most)), .block = kRowWarps * kWarp, .stream = stream};
}

__device__ inline std::int64_t first_row() {
  return static_cast<std::int64_t>(blockIdx.x) * kRowWarps + threadIdx.x / kWarp;
}
__device__ inline std::int64_t row_stride() {
  return std::int64_t{gridDim.x} * kRowWarps;
}

// `sum`: a warp's, the same in all its lanes. True in one thread of the launch, which gets the sum of all
// warps: a block's in their order, then the blocks'. `finished`: a word for each branch, 0 between launches.
__device__ inline bool sum_of_rows(double sum, double* partial, unsigned* finished, double* total) {
  SIMT_SHARED(double, of_warp, [kRowWarps]);
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    double block = 0;
    for (int w = 0; w < kRowWarps; ++w) block += of_warp[w];
    partial[blockIdx.x] = block;
  }
  if (!last_block(finished, gridDim.x) || threadIdx.x != 0) return false;
  *total = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) *total += partial[b];
  return true;
}

}  // namespace cohort::kernels
