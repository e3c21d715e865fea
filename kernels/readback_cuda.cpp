#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "kernels/cuda/runtime.h"
#include "kernels/readback.h"

namespace cohort::kernels {

void* allocate_pinned(CudaStream stream, std::size_t bytes) {
  if (stream.rehearsal != nullptr) {  // the host's alone
    void* const memory = std::calloc(bytes, 1);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
  }
  void* data = nullptr;
  const cudaError_t status = cudaHostAlloc(&data, bytes, cudaHostAllocMapped);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw Error(ErrorKind::kMemory,
                "out of pinned host memory: " + std::to_string(bytes) + " bytes asked for",
                "other processes may hold it; see ulimit -l");
  }
  check_cuda(status, "cudaHostAlloc");
  std::memset(data, 0, bytes);
  return data;
}

void deallocate_pinned(CudaStream stream, void* data) noexcept {
  if (stream.rehearsal != nullptr) return std::free(data);
  cudaFreeHost(data);
}

Marker make_marker(CudaStream stream) {
  if (stream.rehearsal != nullptr) return {};
  cudaEvent_t event = nullptr;
  COHORT_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return {event};
}

void release(CudaStream, Marker marker) noexcept {
  if (marker.event != nullptr) cudaEventDestroy(static_cast<cudaEvent_t>(marker.event));
}

void mark(CudaStream stream, Marker marker) {
  if (stream.rehearsal != nullptr) return;
  COHORT_CUDA_CHECK(cudaEventRecord(static_cast<cudaEvent_t>(marker.event), native(stream)));
}

void wait(CudaStream stream, Marker marker) {
  if (stream.rehearsal != nullptr) return;
  COHORT_CUDA_CHECK(cudaEventSynchronize(static_cast<cudaEvent_t>(marker.event)));
}

bool reached(CudaStream stream, Marker marker) {
  if (stream.rehearsal != nullptr) return true;
  const cudaError_t status = cudaEventQuery(static_cast<cudaEvent_t>(marker.event));
  if (status == cudaErrorNotReady) {
    (void)cudaGetLastError();  // no error, but remembered as one
    return false;
  }
  check_cuda(status, "cudaEventQuery");
  return true;
}

void follow(CudaStream stream, Marker marker) {
  if (stream.rehearsal != nullptr) return;
  COHORT_CUDA_CHECK(cudaStreamWaitEvent(native(stream), static_cast<cudaEvent_t>(marker.event), 0));
}

}  // namespace cohort::kernels
