// The one CUDA header a kernel file includes. The same text is compiled twice: by nvcc for the GPU, and by
// the C++ compiler with SIMT_EMULATED=1 for the emulated device of the tests (tests/simt), which executes it
// thread by thread and reports races, divergent barriers, bounds and reads of unwritten shared memory.
//
//   SIMT_SHARED(float, tile, [32][33]);   static shared memory; contents undefined until written
//   SIMT_SHARED(int, winner, [1]);        (a scalar is an array of one)
//   SIMT_SHARED_DYN(raw);                 unsigned char* to LaunchConfig::shared bytes, 16-byte aligned
//   simt::launch(kernel<float>, {.grid = blocks, .block = 256, .shared = bytes, .stream = stream}, args);
//
// Rules that keep both compilers and the race detector honest:
//   - CUDA's own names with an explicit mask: __syncthreads, __syncwarp, __shfl_*_sync, __ballot_sync and
//     atomics (tests/simt/emulator lists what there is). No __activemask, no cooperative groups, no <<<>>>,
//     no bare __shared__.
//   - blocks are whole warps wherever a mask names lanes; a thread that returns takes part in no later
//     barrier, so either all threads of the block reach __syncthreads or none does; same for the lanes of a
//     mask.
//   - a struct goes to shared memory through a local: `Plan p = make(); plan[0] = p;`
//   - shuffles and votes order no memory: an exchange through shared memory inside a warp needs __syncwarp().
//   - between blocks: __threadfence(), atomic, __threadfence() in the thread that did the atomic, then the
//     barrier (last_block() of prim.cuh does this).
//   - no float atomics where results must repeat; a block waits for another one in a cooperative launch only,
//     in grid_barrier() of grid_barrier.cuh.
#pragma once

#ifndef SIMT_EMULATED
#define SIMT_EMULATED 0
#endif

#include <cstddef>
#include <cstdint>

#include "kernels/base/error.h"
#include "kernels/base/stream.h"

#if SIMT_EMULATED
#include <simt/emulator/emulator.h>
#else
#include "kernels/cuda/launch.cuh"

// Bytes and a reference, not an array of `type`: types with constructors are allowed, and nothing is
// initialised.
#define SIMT_SHARED(type, name, ...)                                             \
  __shared__ __align__(16) unsigned char name##_bytes[sizeof(type __VA_ARGS__)]; \
  auto& name = *reinterpret_cast<type(*) __VA_ARGS__>(name##_bytes)

#define SIMT_SHARED_DYN(name)                                          \
  extern __shared__ __align__(16) unsigned char simt_dynamic_shared[]; \
  unsigned char* const name = simt_dynamic_shared
#endif
