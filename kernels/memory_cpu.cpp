#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "kernels/base/error.h"
#include "kernels/cpu/parallel.h"
#include "kernels/memory.h"

namespace cohort::kernels {
namespace {

void fill_bytes(CpuStream stream, void* data, int value, std::size_t bytes) {
  parallel_for(stream, static_cast<std::int64_t>(bytes), 1 << 20, [&](std::int64_t begin, std::int64_t end) {
    std::memset(static_cast<char*>(data) + begin, value, static_cast<std::size_t>(end - begin));
  });
}

}  // namespace

void* allocate(CpuStream, std::size_t bytes) {
  constexpr std::size_t kAlignment = 64;
  const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  void* data = rounded < bytes ? nullptr : std::aligned_alloc(kAlignment, rounded);
  if (data == nullptr) {
    throw Error(ErrorKind::kMemory, "out of host memory: " + std::to_string(bytes) + " bytes asked for",
                "use a smaller --batch-size or fewer networks");
  }
  return data;
}

void deallocate(CpuStream, void* data) noexcept {
  std::free(data);
}

std::size_t free_bytes(CpuStream) {
  return std::numeric_limits<std::size_t>::max();
}

void copy_from_pinned(CpuStream stream, void* device, const void* pinned, std::size_t bytes) {
  copy_to_device(stream, device, pinned, bytes);
}

void copy_to_device(CpuStream, void* device, const void* host, std::size_t bytes) {
  if (bytes != 0) std::memcpy(device, host, bytes);
}

void copy_to_host(CpuStream, void* host, const void* device, std::size_t bytes) {
  if (bytes != 0) std::memcpy(host, device, bytes);
}

void fill_zero(CpuStream stream, void* device, std::size_t bytes) {
  fill_bytes(stream, device, 0, bytes);
}

void poison(CpuStream stream, void* device, std::size_t bytes) {
  fill_bytes(stream, device, 0xff, bytes);
}

void synchronize(CpuStream) {}

}  // namespace cohort::kernels
