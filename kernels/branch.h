// Streams of branches, ordering between them, and capture of a step. The CPU runs branches one after the
// other, so its overloads do nothing and a "captured" step is run again by the caller.
#pragma once

#include "kernels/base/stream.h"

namespace cohort::kernels {

// The stream of branch `index`; the main branch is 0. The same stream for the same index, until the process
// ends. Throws Error(kDevice) when the device cannot be used, or when the process uses another one already.
CudaStream open_branch(int device, int index);
// A stream beside that branch, for work that the branch need not wait for: the least urgent of all. Its
// number (CudaStream::branch) is -1 - index.
CudaStream open_side(int device, int index);

// Work enqueued on `after` from now on starts when what `before` holds now is done.
inline void order(CpuStream, CpuStream) {}
void order(CudaStream before, CudaStream after);

// Between begin_capture and end_capture work on `stream`, and on the branches ordered after it, is recorded
// and not run. All of these branches must be ordered before `stream` again at the end. No allocation, copy
// from or to the host, or synchronisation in between: such a call throws, and the capture cannot be ended any
// more.
struct CapturedStep {
  void* graph = nullptr;  // null on the CPU
  // What one replay does; others are the empty nodes of forks and joins.
  int kernels = 0, copies = 0, memsets = 0, others = 0;
  int num_nodes() const { return kernels + copies + memsets + others; }
};

inline void begin_capture(CpuStream) {}
void begin_capture(CudaStream stream);
inline CapturedStep end_capture(CpuStream) {
  return {};
}
CapturedStep end_capture(CudaStream stream);
// After an exception: forgets what was recorded; the stream and its branches run again.
inline void abort_capture(CpuStream) noexcept {}
void abort_capture(CudaStream stream) noexcept;
// Runs the captured work, in the place of one operation of `stream`.
inline void launch(CpuStream, CapturedStep) {}
void launch(CudaStream stream, CapturedStep step);
inline void release(CpuStream, CapturedStep) noexcept {}
void release(CudaStream stream, CapturedStep step) noexcept;

}  // namespace cohort::kernels
