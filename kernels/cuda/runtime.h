// The host side's view of the CUDA runtime: statuses become Error, and a CudaStream becomes a cudaStream_t.
// For *_cuda.cpp and *_cuda.cu files only.
//
// Error kinds: memory exhausted is kMemory; no driver, no device and everything that goes wrong on a device
// is kDevice, because nothing but a new process helps.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/base/error.h"
#include "kernels/base/stream.h"

namespace cohort::kernels {

// Throws the Error for a status other than cudaSuccess and forgets it (cudaGetLastError). `call` is the text
// of the failed call, or its name.
[[noreturn]] void throw_cuda(cudaError_t status, const char* call);

inline void check_cuda(cudaError_t status, const char* call) {
  if (status != cudaSuccess) throw_cuda(status, call);
}

inline cudaStream_t native(CudaStream stream) {
  return static_cast<cudaStream_t>(stream.handle);
}

// True while what is enqueued on the stream is recorded and not run.
bool is_capturing(CudaStream stream);

}  // namespace cohort::kernels

// COHORT_CUDA_CHECK(cudaMemsetAsync(p, 0, n, s)); throws unless the call succeeds.
#define COHORT_CUDA_CHECK(call) ::cohort::kernels::check_cuda((call), #call)
