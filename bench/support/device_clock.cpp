#include "bench/support/device_clock.h"

#include <cstring>

#include "kernels/cpu/parallel.h"
#include "kernels/memory.h"

namespace cohort::bench {
namespace {

constexpr std::size_t kCpuCopy = std::size_t{128} << 20;
constexpr std::size_t kDeviceCopy = kEmulated ? std::size_t{1} << 20 : std::size_t{1} << 30;
constexpr int kTries = 7;

double measure_cpu() {
  Memory memory(Mode::kCpu);
  const float* const from = memory.normals<float>(kCpuCopy / sizeof(float));
  float* const to = memory.empty<float>(kCpuCopy / sizeof(float));
  double best = 0;
  for (int i = 0; i < kTries; ++i) {
    const auto before = std::chrono::steady_clock::now();
    copy_on_device(cpu_stream(), to, from, kCpuCopy);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - before;
    if (i > 0) best = std::max(best, 2.0 * kCpuCopy / took.count());  // the first touches the pages
  }
  return best;
}

double measure_device() {
  if constexpr (kHasDevice) {
    Memory memory(Mode::kHot);
    const float* const from = memory.normals<float>(kDeviceCopy / sizeof(float));
    float* const to = memory.empty<float>(kDeviceCopy / sizeof(float));
    double best = 0;
    for (int i = 0; i < kTries; ++i) {
      const DeviceClock clock(cuda_stream());
      clock.host_seconds([&] { copy_on_device(cuda_stream(), to, from, kDeviceCopy); });
      best = std::max(best, 2.0 * kDeviceCopy / clock.seconds());
    }
    return best;
  }
  return 0;
}

}  // namespace

void copy_on_device(CpuStream stream, void* to, const void* from, std::size_t bytes) {
  parallel_for(stream, static_cast<std::int64_t>(bytes), std::int64_t{1} << 17,
               [&](std::int64_t begin, std::int64_t end) {
                 std::memcpy(static_cast<std::byte*>(to) + begin, static_cast<const std::byte*>(from) + begin,
                             static_cast<std::size_t>(end - begin));
               });
}

double copy_bytes_per_second(Mode mode) {
  if (mode == Mode::kCpu) {
    static const double speed = measure_cpu();
    return speed;
  }
  static const double speed = measure_device();
  return speed;
}

}  // namespace cohort::bench
