// Time on a device, and the memory's speed as a copy sees it. The CUDA side is device_clock_cuda.cpp.
#pragma once

#include <chrono>
#include <cstddef>

#include "bench/support/device_bench.h"
#include "kernels/base/stream.h"

namespace cohort::bench {

// Between two events of a stream: the device's own time, without the host's.
class DeviceClock {
 public:
  explicit DeviceClock(CudaStream stream);
  ~DeviceClock();
  DeviceClock(const DeviceClock&) = delete;
  DeviceClock& operator=(const DeviceClock&) = delete;

  // Runs `enqueue` between the events; how long the host took to enqueue.
  template <class F>
  double host_seconds(F&& enqueue) const {
    mark(begin_);
    const auto before = std::chrono::steady_clock::now();
    enqueue();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - before;
    mark(end_);
    return took.count();
  }
  // Waits for the second event.
  double seconds() const;

 private:
  void mark(void* event) const;

  CudaStream stream_;
  void* begin_ = nullptr;
  void* end_ = nullptr;
};

// Copies between two buffers of the device; the CPU's with all threads.
void copy_on_device(CpuStream stream, void* to, const void* from, std::size_t bytes);
void copy_on_device(CudaStream stream, void* to, const void* from, std::size_t bytes);

// Bytes read plus bytes written per second by the best of some large copies, measured once per device.
double copy_bytes_per_second(Mode mode);

}  // namespace cohort::bench
