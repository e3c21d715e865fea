// Streams of branches, ordering between them, and capture of a step. The CPU runs branches one after the
// other, so its overloads do nothing and a "captured" step is run again by the caller.
#pragma once

#include "kernels/base/stream.h"

namespace cohort::kernels {

// A stream for branch `index`; the main branch is 0. Lives until the process ends.
CudaStream open_branch(int device, int index);

// Work enqueued on `after` from now on starts when what `before` holds now is done.
inline void order(CpuStream, CpuStream) {}
void order(CudaStream before, CudaStream after);

struct CapturedStep {
  void* graph = nullptr;  // null on the CPU
};

inline void begin_capture(CpuStream) {}
void begin_capture(CudaStream stream);
inline CapturedStep end_capture(CpuStream) {
  return {};
}
CapturedStep end_capture(CudaStream stream);
inline void launch(CpuStream, CapturedStep) {}
void launch(CudaStream stream, CapturedStep step);
inline void release(CpuStream, CapturedStep) noexcept {}
void release(CudaStream stream, CapturedStep step) noexcept;

}  // namespace cohort::kernels
