#include "bench/support/device_clock.h"
#include "kernels/cuda/runtime.h"

namespace cohort::bench {
namespace {

cudaEvent_t native_event(void* event) {
  return static_cast<cudaEvent_t>(event);
}

void* create() {
  cudaEvent_t event = nullptr;
  COHORT_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDefault));
  return event;
}

}  // namespace

DeviceClock::DeviceClock(CudaStream stream) : stream_(stream), begin_(create()), end_(create()) {}

DeviceClock::~DeviceClock() {
  (void)cudaEventDestroy(native_event(begin_));
  (void)cudaEventDestroy(native_event(end_));
}

void DeviceClock::mark(void* event) const {
  COHORT_CUDA_CHECK(cudaEventRecord(native_event(event), kernels::native(stream_)));
}

double DeviceClock::seconds() const {
  COHORT_CUDA_CHECK(cudaEventSynchronize(native_event(end_)));
  float milliseconds = 0;
  COHORT_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, native_event(begin_), native_event(end_)));
  return 1e-3 * static_cast<double>(milliseconds);
}

void copy_on_device(CudaStream stream, void* to, const void* from, std::size_t bytes) {
  COHORT_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, kernels::native(stream)));
}

}  // namespace cohort::bench
