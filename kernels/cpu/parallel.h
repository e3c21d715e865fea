// Parallel loops with fixed chunks: where a chunk begins and ends depends on the problem only, never on the
// number of threads, so a reduction that sums its chunks in order gives the same bits on one core and on a
// hundred.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/base/stream.h"
#include "kernels/cpu/thread_pool.h"

namespace cohort {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

inline int num_threads(CpuStream stream) {
  return stream.pool == nullptr ? 1 : stream.pool->num_threads();
}

// f(chunk, thread) for chunk in [0, num_chunks). `thread` in [0, num_threads(stream)) may index scratch
// memory.
template <class F>
void parallel_chunks(CpuStream stream, std::int64_t num_chunks, F&& f) {
  if (stream.pool == nullptr) {
    for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk) f(chunk, 0);
    return;
  }
  using Function = std::remove_reference_t<F>;
  stream.pool->run(
      num_chunks,
      [](void* argument, std::int64_t chunk, int thread) {
        (*static_cast<Function*>(argument))(chunk, thread);
      },
      const_cast<void*>(static_cast<const void*>(&f)));
}

// f(begin, end) over [0, count) in chunks of `grain` elements (the last one shorter).
template <class F>
void parallel_for(CpuStream stream, std::int64_t count, std::int64_t grain, F&& f) {
  parallel_chunks(stream, ceil_div(count, grain), [&](std::int64_t chunk, int) {
    const std::int64_t begin = chunk * grain;
    f(begin, std::min(count, begin + grain));
  });
}

}  // namespace cohort
