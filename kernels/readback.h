// What passes between host and device without making either wait: memory that both reach (results that
// kernels write, images on their way to the device), and markers that say when. On the CPU, where work is
// done when its call returns, every marker is reached at once.
#pragma once

#include <cstddef>

#include "kernels/base/stream.h"

namespace cohort::kernels {

// Host memory that kernels on the stream can write (pinned and mapped for CUDA). Zero-filled; throws
// Error(kMemory).
void* allocate_pinned(CpuStream stream, std::size_t bytes);
void* allocate_pinned(CudaStream stream, std::size_t bytes);
void deallocate_pinned(CpuStream stream, void* data) noexcept;
void deallocate_pinned(CudaStream stream, void* data) noexcept;

// A point in a stream.
struct Marker {
  void* event = nullptr;  // null on the CPU
};

inline Marker make_marker(CpuStream) {
  return {};
}
Marker make_marker(CudaStream stream);
inline void release(CpuStream, Marker) noexcept {}
void release(CudaStream stream, Marker marker) noexcept;

// Moves the marker to what the stream holds now. Not inside a captured step.
inline void mark(CpuStream, Marker) {}
void mark(CudaStream stream, Marker marker);
// Returns when everything before the mark is done. Errors of that work are thrown here.
inline void wait(CpuStream, Marker) {}
void wait(CudaStream stream, Marker marker);
// Whether wait() would return at once; it is true before the first mark. Not inside a captured step.
inline bool reached(CpuStream, Marker) {
  return true;
}
bool reached(CudaStream stream, Marker marker);
// Work enqueued on the stream from now on starts when everything before the mark is done; the host goes on.
inline void follow(CpuStream, Marker) {}
void follow(CudaStream stream, Marker marker);

}  // namespace cohort::kernels
