// A barrier of all blocks of a launch.
//
// Only in a launch with LaunchConfig::cooperative: there all blocks are on the device at the same time.
#pragma once

#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/ptx.cuh"

namespace cohort::kernels {

// Until a bit of the mask is not as it was in `old`.
#if SIMT_EMULATED
inline void wait_for_change(const unsigned* word, unsigned old, unsigned mask, SIMT_SITE_PARAMETERS) {
  if (simt::detail::left_out(SIMT_SITE)) return;
  while (((load_relaxed(word) ^ old) & mask) == 0) __nanosleep(20, file, line, function);
}
#else
__device__ inline void wait_for_change(const unsigned* word, unsigned old, unsigned mask) {
  while (((load_relaxed(word) ^ old) & mask) == 0) __nanosleep(20);
}
#endif

// Every thread of every block calls this, and goes on when all have; what a block wrote to global memory
// before is seen by all blocks after. `word` is a word of device memory that is 0 before the first launch;
// only launches that follow each other share it. Of its 32 bits the upper one turns when the last block
// comes, and the others are 0 again: nothing is to be reset, whatever the number of blocks of the next
// launch.
__device__ inline void grid_barrier(unsigned* word) {
  constexpr unsigned kTurns = 0x80000000U;
  __syncthreads();  // what this block wrote is written
  if (thread_in_block() == 0) {
    const unsigned others = gridDim.x * gridDim.y * gridDim.z - 1;
    const bool first = blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0;
    __threadfence();
    const unsigned before = atomicAdd(word, first ? kTurns - others : 1U);
    wait_for_change(word, before, kTurns);
    __threadfence();
  }
  __syncthreads();
}

}  // namespace cohort::kernels
