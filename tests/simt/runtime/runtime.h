// The fake CUDA runtime, as far as launches need it.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace simt {

// Submits an emulated launch. `name` (file:line of the launch) outlives the process.
cudaError_t enqueue(cudaStream_t stream, const char* name, std::function<void()> run);

}  // namespace simt
