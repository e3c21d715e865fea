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

}  // namespace simt
