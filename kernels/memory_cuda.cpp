#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <string>

#include "kernels/base/rehearsal.h"
#include "kernels/cuda/runtime.h"
#include "kernels/memory.h"

namespace cohort::kernels {
namespace {

// Pinned memory through which all copies go: a copy from pageable memory would make the driver stage it and
// may make the host wait for the stream. A ring of slots, each free again when the copy that used it is over;
// a step's few small inputs reuse a slot only after many steps, so the host runs ahead of the device. One per
// process, never freed: the runtime may be gone when static objects are destroyed.
class Staging {
 public:
  static Staging& instance() {
    static Staging* const staging = new Staging;
    return *staging;
  }

  void to_device(cudaStream_t stream, std::byte* device, const std::byte* host, std::size_t bytes) {
    for (std::size_t offset = 0; offset < bytes; offset += kSlotBytes) {
      const std::size_t count = std::min(kSlotBytes, bytes - offset);
      const Slot& slot = next();
      std::memcpy(slot.data, host + offset, count);
      COHORT_CUDA_CHECK(cudaMemcpyAsync(device + offset, slot.data, count, cudaMemcpyHostToDevice, stream));
      COHORT_CUDA_CHECK(cudaEventRecord(slot.done, stream));
    }
  }

  void to_host(cudaStream_t stream, std::byte* host, const std::byte* device, std::size_t bytes) {
    // The device fills slots while the host empties older ones.
    const Slot* in_flight[kInFlight] = {};
    const std::size_t pieces = (bytes + kSlotBytes - 1) / kSlotBytes;
    for (std::size_t piece = 0; piece < pieces + kInFlight; ++piece) {
      const Slot*& slot = in_flight[piece % kInFlight];
      if (piece >= kInFlight && piece - kInFlight < pieces) {
        const std::size_t offset = (piece - kInFlight) * kSlotBytes;
        COHORT_CUDA_CHECK(cudaEventSynchronize(slot->done));
        std::memcpy(host + offset, slot->data, std::min(kSlotBytes, bytes - offset));
      }
      if (piece < pieces) {
        const std::size_t offset = piece * kSlotBytes;
        slot = &next();
        COHORT_CUDA_CHECK(cudaMemcpyAsync(slot->data, device + offset, std::min(kSlotBytes, bytes - offset),
                                          cudaMemcpyDeviceToHost, stream));
        COHORT_CUDA_CHECK(cudaEventRecord(slot->done, stream));
      }
    }
  }

 private:
  static constexpr std::size_t kSlotBytes = std::size_t{256} << 10;
  static constexpr std::size_t kSlots = 32;
  static constexpr std::size_t kInFlight = 4;

  struct Slot {
    std::byte* data = nullptr;
    cudaEvent_t done = nullptr;
  };

  Staging() {
    void* data = nullptr;
    const cudaError_t status = cudaMallocHost(&data, kSlots * kSlotBytes);
    if (status == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      throw Error(ErrorKind::kMemory,
                  "out of pinned host memory: " + std::to_string(kSlots * kSlotBytes) + " bytes asked for",
                  "raise the limit on locked memory (ulimit -l), or close other programs");
    }
    check_cuda(status, "cudaMallocHost");
    for (std::size_t i = 0; i < kSlots; ++i) {
      slots_[i].data = static_cast<std::byte*>(data) + i * kSlotBytes;
      COHORT_CUDA_CHECK(cudaEventCreateWithFlags(&slots_[i].done, cudaEventDisableTiming));
    }
  }

  // The next slot, when its last copy is over (an event that was never recorded is).
  const Slot& next() {
    const Slot& slot = slots_[next_];
    next_ = (next_ + 1) % kSlots;
    COHORT_CUDA_CHECK(cudaEventSynchronize(slot.done));
    return slot;
  }

  Slot slots_[kSlots];
  std::size_t next_ = 0;
};

// A copy recorded into a step would read the staging slot again at every replay, and find something else.
void refuse_capture(CudaStream stream, const char* function) {
  if (is_capturing(stream)) internal_error(std::string(function) + " inside a captured step");
}

}  // namespace

void* allocate(CudaStream stream, std::size_t bytes) {
  if (stream.rehearsal != nullptr) return stream.rehearsal->reserve(bytes);
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes == 0 ? 1 : bytes);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    std::string message = "out of device memory: " + std::to_string(bytes) + " bytes asked for";
    std::size_t free = 0, total = 0;
    if (cudaMemGetInfo(&free, &total) == cudaSuccess) {
      message += ", " + std::to_string(free) + " free of " + std::to_string(total);
    }
    throw Error(ErrorKind::kMemory, message, "use a smaller --batch-size or fewer networks");
  }
  check_cuda(status, "cudaMalloc");
  return data;
}

void deallocate(CudaStream stream, void* data) noexcept {
  if (stream.rehearsal != nullptr) return stream.rehearsal->release(data);
  // Nothing to be done about a failure: the device is lost, and the next call that can report it does.
  (void)cudaFree(data);
}

std::size_t free_bytes(CudaStream stream) {
  if (stream.rehearsal != nullptr) return std::numeric_limits<std::size_t>::max();
  std::size_t free = 0, total = 0;
  COHORT_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return free;
}

void copy_from_pinned(CudaStream stream, void* device, const void* pinned, std::size_t bytes) {
  if (bytes == 0) return;
  refuse_capture(stream, "copy_from_pinned");
  if (stream.rehearsal != nullptr) return;
  COHORT_CUDA_CHECK(cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, native(stream)));
}

void copy_to_device(CudaStream stream, void* device, const void* host, std::size_t bytes) {
  if (bytes == 0) return;
  refuse_capture(stream, "copy_to_device");
  if (stream.rehearsal != nullptr) return;
  Staging::instance().to_device(native(stream), static_cast<std::byte*>(device),
                                static_cast<const std::byte*>(host), bytes);
}

void copy_to_host(CudaStream stream, void* host, const void* device, std::size_t bytes) {
  if (bytes == 0) return;
  refuse_capture(stream, "copy_to_host");
  if (stream.rehearsal != nullptr) {
    std::memset(host, 0, bytes);
    return;
  }
  Staging::instance().to_host(native(stream), static_cast<std::byte*>(host),
                              static_cast<const std::byte*>(device), bytes);
}

void fill_zero(CudaStream stream, void* device, std::size_t bytes) {
  if (stream.rehearsal != nullptr) return stream.rehearsal->node(Rehearsal::Node::kMemset);
  if (bytes != 0) COHORT_CUDA_CHECK(cudaMemsetAsync(device, 0, bytes, native(stream)));
}

void poison(CudaStream stream, void* device, std::size_t bytes) {
  if (stream.rehearsal != nullptr) return stream.rehearsal->node(Rehearsal::Node::kMemset);
  if (bytes != 0) COHORT_CUDA_CHECK(cudaMemsetAsync(device, 0xff, bytes, native(stream)));
}

void synchronize(CudaStream stream) {
  if (stream.rehearsal != nullptr) return;
  COHORT_CUDA_CHECK(cudaStreamSynchronize(native(stream)));
}

}  // namespace cohort::kernels
