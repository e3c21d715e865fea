// What the emulator tells the sanitizers. The emulator itself is compiled without them (its own accesses to
// shared buffers are no accesses of CUDA threads), so their run-time functions are weak: null where no
// sanitizer is linked.
#pragma once

#include <cstddef>

extern "C" {
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** fake_stack_save, const void* bottom,
                                                  std::size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* fake_stack_save, const void** bottom_old,
                                                   std::size_t* size_old);
[[gnu::weak]] void __asan_poison_memory_region(const volatile void* address, std::size_t size);
[[gnu::weak]] void __asan_unpoison_memory_region(const volatile void* address, std::size_t size);
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* address);
[[gnu::weak]] void __tsan_release(void* address);
}

namespace simt::detail {

inline bool with_asan() {
  return __asan_poison_memory_region != nullptr;
}
inline bool with_tsan() {
  return __tsan_create_fiber != nullptr;
}

inline void poison(const void* address, std::size_t size) {
  if (with_asan()) __asan_poison_memory_region(address, size);
}
inline void unpoison(const void* address, std::size_t size) {
  if (with_asan()) __asan_unpoison_memory_region(address, size);
}

// Happens-before: everything before release(token) is before everything after a later acquire(token).
inline void acquire(void* token) {
  if (with_tsan()) __tsan_acquire(token);
}
inline void release(void* token) {
  if (with_tsan()) __tsan_release(token);
}

}  // namespace simt::detail
