#include <cstring>

#include "kernels/memory.h"
#include "kernels/readback.h"

namespace cohort::kernels {

void* allocate_pinned(CpuStream stream, std::size_t bytes) {
  void* const data = allocate(stream, bytes);
  std::memset(data, 0, bytes);
  return data;
}

void deallocate_pinned(CpuStream stream, void* data) noexcept {
  deallocate(stream, data);
}

}  // namespace cohort::kernels
