// Bump allocation from device memory that is never moved.
//
// Three uses: persistent (parameters, momenta, data), step (everything a training step makes; reset at its
// start) and workspace (scratch of one kernel call). The same sequence of calls after reset() gives the same
// addresses, which is what lets a step be captured once and replayed: core/step_plan.h checks it.
#pragma once

#include <cstddef>
#include <vector>

#include "core/device.h"
#include "kernels/base/stream.h"

namespace cohort {

// The device memory that arenas take their chunks from, and the stream on which what is in them is used.
class MemorySource {
 public:
  explicit MemorySource(CpuStream stream) : cpu_(stream) {}
  explicit MemorySource(CudaStream stream) : cuda_(stream), device_(DeviceKind::kCuda) {}
  void* allocate(std::size_t bytes) const;
  void deallocate(void* data) const noexcept;
  void poison(void* data, std::size_t bytes) const;

 private:
  CpuStream cpu_;
  CudaStream cuda_;
  DeviceKind device_ = DeviceKind::kCpu;
};

class Arena {
 public:
  // `chunk_bytes` is the least that is taken from the device at once.
  Arena(MemorySource source, std::size_t chunk_bytes) : source_(source), chunk_bytes_(chunk_bytes) {}
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // 64-byte aligned; the contents are undefined (NaN bits when poisoning is on). Prefers a block of exactly
  // this size that recycle() gave back.
  void* allocate(std::size_t bytes);

  // Gives one block back before the next reset(): the next allocation of the same size takes it. Backward
  // passes run in a handful of hot buffers instead of touching fresh memory for each gradient.
  void recycle(void* data, std::size_t bytes);

  // Forgets every block. Memory stays reserved, so the next step finds the same addresses.
  void reset();

  // reset() and allocate() fill memory with NaN bits: a read of stale or uninitialised values shows.
  void set_poison(bool on) { poison_ = on; }

  std::size_t bytes_in_use() const { return in_use_; }
  std::size_t peak_bytes() const { return peak_; }
  std::size_t reserved_bytes() const { return reserved_; }  // taken from the device

 private:
  struct Chunk {
    std::byte* data;
    std::size_t bytes;
  };
  struct FreeList {
    std::size_t bytes;
    std::vector<void*> blocks;
  };

  MemorySource source_;
  std::size_t chunk_bytes_;
  std::vector<Chunk> chunks_;
  std::vector<FreeList> free_lists_;
  std::size_t current_ = 0;  // chunk in use
  std::size_t offset_ = 0;   // within it
  std::size_t in_use_ = 0, peak_ = 0, reserved_ = 0;
  bool poison_ = false;
};

}  // namespace cohort
