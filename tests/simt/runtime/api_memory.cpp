// Device and pinned memory, copies.
#include <cstring>
#include <memory>

#include "simt/runtime/memory.h"
#include "simt/runtime/state.h"

using simt::runtime::Block;
using simt::runtime::DeviceMemory;
using simt::runtime::PinnedMemory;
using simt::runtime::Status;
using simt::runtime::WorkKind;

namespace {

std::string text_of(const void* address) {
  char text[32];
  std::snprintf(text, sizeof text, "%p", address);
  return text;
}

// Empty when [address, address + bytes) lies in one live block of device memory; else what is wrong.
std::string device_problem(const void* address, std::size_t bytes) {
  const Block* const block = DeviceMemory::instance().find(address);
  if (block == nullptr) return text_of(address) + " is not device memory";
  if (!block->live) return text_of(address) + " is in a block of device memory that was freed";
  const auto* const begin = static_cast<const std::byte*>(address);
  if (begin < block->data || begin + bytes > block->data + block->bytes) {
    return std::to_string(bytes) + " bytes from byte " + std::to_string(begin - block->data) +
           " of a block of " + std::to_string(block->bytes);
  }
  return "";
}

std::string host_problem(const void* address, std::size_t bytes) {
  if (address == nullptr) return "null is not host memory";
  if (DeviceMemory::instance().find(address) != nullptr) return text_of(address) + " is device memory";
  if (PinnedMemory::instance().locate(address, bytes) == PinnedMemory::Where::kAcross) {
    return "the range crosses the end of pinned memory";
  }
  return "";
}

bool is_pinned(const void* address, std::size_t bytes) {
  return PinnedMemory::instance().locate(address, bytes) == PinnedMemory::Where::kIn;
}

std::string copy_problem(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  std::string problem = to_device ? device_problem(to, bytes) : host_problem(to, bytes);
  if (!problem.empty()) return "to: " + problem;
  problem = from_device ? device_problem(from, bytes) : host_problem(from, bytes);
  return problem.empty() ? "" : "from: " + problem;
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** data, size_t bytes) {
  SIMT_ENTER("cudaMalloc");
  Status& status = Status::instance();
  if (const cudaError_t error =
          simt::runtime::forbid_in_capture("cudaMalloc of " + std::to_string(bytes) + " bytes")) {
    return error;
  }
  DeviceMemory& memory = DeviceMemory::instance();
  if (bytes > status.devices.memory - std::min(status.devices.memory, memory.bytes_in_use())) {
    return status.fail(cudaErrorMemoryAllocation);
  }
  *data = bytes == 0 ? nullptr : memory.allocate(bytes);
  return cudaSuccess;
}

cudaError_t cudaFree(void* data) {
  SIMT_ENTER("cudaFree");
  if (const cudaError_t error = simt::runtime::forbid_in_capture("cudaFree")) return error;
  if (data == nullptr) return cudaSuccess;
  Block* const block = DeviceMemory::instance().find(data);
  if (block == nullptr || block->data != data || !block->live) {
    return Status::instance().violate(
        cudaErrorInvalidValue, block != nullptr && block->data == data
                                   ? "cudaFree of memory that was freed before"
                                   : "cudaFree of " + text_of(data) + ", which cudaMalloc did not return");
  }
  simt::runtime::wait_for_device();
  DeviceMemory::instance().free(*block);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** data, size_t bytes) {
  SIMT_ENTER("cudaMallocHost");
  if (const cudaError_t error = simt::runtime::forbid_in_capture("cudaMallocHost")) return error;
  *data = PinnedMemory::instance().allocate(bytes);
  return *data == nullptr ? Status::instance().fail(cudaErrorMemoryAllocation) : cudaSuccess;
}

cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  SIMT_ENTER("cudaHostAlloc");
  if (const cudaError_t error = simt::runtime::forbid_in_capture("cudaHostAlloc")) return error;
  *data = PinnedMemory::instance().allocate(bytes);
  return *data == nullptr ? Status::instance().fail(cudaErrorMemoryAllocation) : cudaSuccess;
}

cudaError_t cudaFreeHost(void* data) {
  SIMT_ENTER("cudaFreeHost");
  if (const cudaError_t error = simt::runtime::forbid_in_capture("cudaFreeHost")) return error;
  simt::runtime::wait_for_device();
  if (data != nullptr && !PinnedMemory::instance().free(data)) {
    return Status::instance().violate(cudaErrorInvalidValue,
                                      "cudaFreeHost of memory that is not pinned or was freed before");
  }
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  SIMT_ENTER("cudaMemGetInfo");
  *total = Status::instance().devices.memory;
  *free = *total - std::min(*total, DeviceMemory::instance().bytes_in_use());
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t handle) {
  SIMT_ENTER("cudaMemcpyAsync");
  Status& status = Status::instance();
  if (kind != cudaMemcpyHostToDevice && kind != cudaMemcpyDeviceToHost && kind != cudaMemcpyDeviceToDevice) {
    return status.violate(cudaErrorInvalidMemcpyDirection, "cudaMemcpyAsync: name the direction");
  }
  if (const std::string problem = copy_problem(to, from, bytes, kind); !problem.empty()) {
    return status.violate(cudaErrorInvalidValue, "cudaMemcpyAsync " + problem);
  }
  CUstream_st* const stream = simt::runtime::Handles::instance().find(handle);
  const void* const host = kind == cudaMemcpyHostToDevice ? from : to;
  const bool pageable = kind != cudaMemcpyDeviceToDevice && !is_pinned(host, bytes);
  if (pageable && stream != nullptr && stream->capture != nullptr) {
    return simt::runtime::forbid_in_capture("cudaMemcpyAsync with pageable host memory");
  }
  simt::runtime::Work work{WorkKind::kMemcpy, "memcpy", [to, from, bytes] { std::memcpy(to, from, bytes); }};
  if (pageable && kind == cudaMemcpyHostToDevice) {
    const auto* const begin = static_cast<const std::byte*>(from);
    work.run = [to, staged = std::vector<std::byte>(begin, begin + bytes)] {
      std::memcpy(to, staged.data(), staged.size());
    };
  }
  const cudaError_t error = simt::runtime::put(stream, std::move(work), "cudaMemcpyAsync");
  if (error != cudaSuccess) return error;
  if (pageable && kind == cudaMemcpyDeviceToHost) return cudaStreamSynchronize(handle);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  SIMT_ENTER("cudaMemsetAsync");
  if (const std::string problem = device_problem(data, bytes); !problem.empty()) {
    return Status::instance().violate(cudaErrorInvalidValue, "cudaMemsetAsync: " + problem);
  }
  return simt::runtime::put(simt::runtime::Handles::instance().find(stream),
                            {WorkKind::kMemset, "memset", [=] { std::memset(data, value, bytes); }},
                            "cudaMemsetAsync");
}

}  // extern "C"

namespace simt {

std::size_t device_bytes() {
  return DeviceMemory::instance().bytes_in_use();
}

int num_device_blocks() {
  return DeviceMemory::instance().num_blocks();
}

std::size_t pinned_bytes() {
  return PinnedMemory::instance().bytes_in_use();
}

bool is_device_pointer(const void* pointer) {
  return device_problem(pointer, 1).empty();
}

}  // namespace simt
