// Where a kernel runs. Every kernel header declares each function twice: with CpuStream and with CudaStream;
// the caller's stream type picks the overload (core/dispatch.h). No CUDA header is needed to include this
// one.
#pragma once

#include <cstddef>
#include <span>

namespace cohort {

class Rehearsal;
class ThreadPool;

// Runs the kernel before returning, on the threads of `pool` (null: on the calling thread only).
// The bits of a result never depend on the number of threads.
struct CpuStream {
  ThreadPool* pool = nullptr;
};

// Enqueues the kernel on a CUDA stream. `handle` is a cudaStream_t; `branch` names the vendor-library handles
// and plans that belong to this stream. `tf32`: convolutions and matrix products may round f32 operands to
// TF32 (10 bits of mantissa) before they multiply; sums stay in f32. With a `rehearsal` nothing is enqueued
// and no device is touched: what would be is written down there (kernels/base/rehearsal.h).
struct CudaStream {
  void* handle = nullptr;
  int branch = 0;
  bool tf32 = false;
  Rehearsal* rehearsal = nullptr;
};

// Scratch memory lent to one kernel call; its contents mean nothing afterwards. 64-byte aligned.
using Workspace = std::span<std::byte>;

// What a backward kernel does with the gradient buffer it writes.
enum class GradMode : bool { kOverwrite, kAccumulate };

}  // namespace cohort
