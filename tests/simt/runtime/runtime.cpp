#include "simt/runtime/runtime.h"

namespace simt {

// The host waits for every launch.
cudaError_t enqueue(cudaStream_t, const char*, std::function<void()> run) {
  run();
  return cudaSuccess;
}

}  // namespace simt
