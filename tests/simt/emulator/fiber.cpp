#include "simt/emulator/fiber.h"

#include <sys/mman.h>

#include <new>
#include <utility>

#include "simt/emulator/sanitizers.h"

namespace simt::detail {
namespace {

constexpr unsigned kNoSynchronisation = 1;  // __tsan_switch_to_fiber: the switch orders nothing

// Instrumented frames are larger.
std::size_t stack_bytes() {
  return with_asan() || with_tsan() ? 256 * 1024 : 64 * 1024;
}

// Below the stack; a local array that does not fit must not reach past it. 512 KiB is a CUDA thread's most.
constexpr std::size_t kGuardBytes = 1 << 20;

// Stacks live as long as their fibers, which is for ever.
struct KeepStack {
  void deallocate(boost::context::stack_context&) {}
};

}  // namespace

Fiber::Fiber() {
  size_ = stack_bytes();
  void* const memory = mmap(nullptr, kGuardBytes + size_, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) throw std::bad_alloc();
  bottom_ = static_cast<char*>(memory) + kGuardBytes;
  if (with_tsan()) tsan_inside_ = __tsan_create_fiber(0);
  boost::context::stack_context stack;
  stack.size = size_;
  stack.sp = static_cast<char*>(memory) + kGuardBytes + size_;
  inside_ =
      boost::context::fiber(std::allocator_arg, boost::context::preallocated(stack.sp, stack.size, stack),
                            KeepStack{}, [this](boost::context::fiber&& outside) {
                              outside_ = std::move(outside);
                              if (with_asan()) {
                                __sanitizer_finish_switch_fiber(nullptr, &outside_bottom_, &outside_size_);
                              }
                              loop();
                              return std::move(outside_);
                            });
}

void Fiber::loop() {
  for (;;) {
    work_(argument_);
    idle_ = true;
    suspend();
  }
}

void Fiber::start(void (*work)(void*), void* argument) {
  work_ = work;
  argument_ = argument;
  idle_ = false;
}

void Fiber::resume() {
  if (with_asan()) __sanitizer_start_switch_fiber(&asan_outside_, bottom_, size_);
  if (with_tsan()) {
    tsan_outside_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(tsan_inside_, kNoSynchronisation);
  }
  inside_ = std::move(inside_).resume();
  if (with_asan()) __sanitizer_finish_switch_fiber(asan_outside_, nullptr, nullptr);
}

void Fiber::suspend() {
  if (with_asan()) __sanitizer_start_switch_fiber(&asan_inside_, outside_bottom_, outside_size_);
  if (with_tsan()) __tsan_switch_to_fiber(tsan_outside_, kNoSynchronisation);
  outside_ = std::move(outside_).resume();
  if (with_asan()) __sanitizer_finish_switch_fiber(asan_inside_, &outside_bottom_, &outside_size_);
}

}  // namespace simt::detail
