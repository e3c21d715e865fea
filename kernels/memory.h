// Device memory and copies: the only functions below core that allocate. Called while arenas grow (before a
// step plan is captured) and by feeds, never inside a step.
#pragma once

#include <cstddef>

#include "kernels/base/stream.h"

namespace cohort::kernels {

// 64-byte aligned (CPU) or 256-byte aligned (CUDA) memory; throws Error(kMemory) naming the size asked for.
void* allocate(CpuStream stream, std::size_t bytes);
void* allocate(CudaStream stream, std::size_t bytes);
void deallocate(CpuStream stream, void* data) noexcept;
void deallocate(CudaStream stream, void* data) noexcept;

// What allocate() could give now, at most. The CPU does not know: the largest number.
std::size_t free_bytes(CpuStream stream);
std::size_t free_bytes(CudaStream stream);

// Copies are operations of the stream. Returns when `host` may be reused, which is before the device holds
// the data.
void copy_to_device(CpuStream stream, void* device, const void* host, std::size_t bytes);
void copy_to_device(CudaStream stream, void* device, const void* host, std::size_t bytes);
// From memory of allocate_pinned (kernels/readback.h), which must stay as it is until the copy is over: the
// host does not wait, and no other memory is used on the way.
void copy_from_pinned(CpuStream stream, void* device, const void* pinned, std::size_t bytes);
void copy_from_pinned(CudaStream stream, void* device, const void* pinned, std::size_t bytes);
// Returns when `host` holds the data.
void copy_to_host(CpuStream stream, void* host, const void* device, std::size_t bytes);
void copy_to_host(CudaStream stream, void* host, const void* device, std::size_t bytes);
// These two may be part of a captured step.
void fill_zero(CpuStream stream, void* device, std::size_t bytes);
void fill_zero(CudaStream stream, void* device, std::size_t bytes);
// All bits 1: NaN in every floating dtype, -1 in every integer one.
void poison(CpuStream stream, void* device, std::size_t bytes);
void poison(CudaStream stream, void* device, std::size_t bytes);
void synchronize(CpuStream stream);
void synchronize(CudaStream stream);

}  // namespace cohort::kernels
