// The only inline PTX: 16-byte copies from global to shared memory that do not wait (cp.async), for double
// buffers; and a load to poll with.
//
//   copy_async16(dst, src); commit_async();   any number of copies, then one group; groups complete in order
//   wait_async<n>();                          all but the newest n groups of the calling thread have arrived
// A barrier must follow before other threads read what was copied.
//
//   load_relaxed(word)                        from L2, where atomics are made; orders nothing
//
// The emulated twin is deliberately late: a copy fills its target with 0xFF and the bytes come with the wait.
#pragma once

#include "kernels/cuda/simt.cuh"

namespace cohort::kernels {

#if SIMT_EMULATED

// Both 16-byte aligned.
inline void copy_async16(void* shared, const void* global) {
  auto* const words = static_cast<std::uint64_t*>(shared);
  words[0] = words[1] = ~std::uint64_t{0};
  simt::detail::push_async_copy(shared, global);
}

inline void commit_async() {
  simt::detail::commit_async_copies();
}

template <int kNewest>
void wait_async(SIMT_SITE_PARAMETERS) {
  if (simt::detail::left_out(SIMT_SITE)) return;
  void* shared = nullptr;
  const void* global = nullptr;
  while (simt::detail::pop_async_copy(kNewest, &shared, &global)) {
    const auto* const from = static_cast<const std::uint64_t*>(global);
    auto* const to = static_cast<std::uint64_t*>(shared);
    to[0] = from[0];
    to[1] = from[1];
  }
}

inline unsigned load_relaxed(const unsigned* word) {
  return simt::detail::load(word);
}

#else

__device__ inline void copy_async16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))),
                 "l"(__cvta_generic_to_global(global))
               : "memory");
}

__device__ inline void commit_async() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int kNewest>
__device__ void wait_async() {
  asm volatile("cp.async.wait_group %0;" : : "n"(kNewest) : "memory");
}

__device__ inline unsigned load_relaxed(const unsigned* word) {
  unsigned value = 0;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];"
               : "=r"(value)
               : "l"(__cvta_generic_to_global(word))
               : "memory");
  return value;
}

#endif

}  // namespace cohort::kernels
