// Where and how large a kernel launch is. Shared by the real and the emulated launcher.
#pragma once

#include <vector_types.h>

#include <cstddef>

#include "kernels/base/rehearsal.h"
#include "kernels/base/stream.h"

struct CUstream_st;

namespace simt {

// A cudaStream_t, also made from the engine's stream.
struct StreamRef {
  CUstream_st* handle = nullptr;
  cohort::Rehearsal* rehearsal = nullptr;

  StreamRef() = default;
  StreamRef(CUstream_st* stream) : handle(stream) {}
  StreamRef(const cohort::CudaStream& stream)
      : handle(static_cast<CUstream_st*>(stream.handle)), rehearsal(stream.rehearsal) {}
};

struct LaunchConfig {
  dim3 grid{1, 1, 1};  // a grid with a dimension of 0 has no work: nothing is launched
  dim3 block{1, 1, 1};
  std::size_t shared = 0;  // bytes of dynamic shared memory
  StreamRef stream{};
  // All blocks run at the same time and may wait for each other (grid_barrier.cuh). At most
  // simt::resident_blocks(kernel, config) of them.
  bool cooperative = false;
  // The line that launches, for messages; leave them out.
  const char* file = __builtin_FILE();
  int line = __builtin_LINE();
};

inline bool empty(const LaunchConfig& config) {
  return config.grid.x == 0 || config.grid.y == 0 || config.grid.z == 0;
}

// True when the launch has only been written down (kernels/base/rehearsal.h).
inline bool rehearsed(const LaunchConfig& config) {
  if (config.stream.rehearsal == nullptr) return false;
  config.stream.rehearsal->node(cohort::Rehearsal::Node::kKernel);
  return true;
}

// Blocks that run at the same time on any GPU of sm_80 or sm_90 for servers: 100 multiprocessors, of which
// each has 65,536 registers and 164 KiB of shared memory. Assumed of the kernel: 128 registers a thread, 7
// KiB of static shared memory; a block takes 1 KiB more. What a step that is rehearsed goes by, and the
// emulated device.
inline unsigned nominal_resident_blocks(const LaunchConfig& config) {
  const std::size_t threads = std::size_t{config.block.x} * config.block.y * config.block.z;
  const std::size_t by_registers = 65536 / (128 * (threads == 0 ? 1 : threads));
  const std::size_t by_memory = 164 * 1024 / (config.shared + 8 * 1024);
  const std::size_t of_one = by_registers < by_memory ? by_registers : by_memory;
  return static_cast<unsigned>(100 * (of_one < 32 ? of_one : 32));
}

}  // namespace simt
