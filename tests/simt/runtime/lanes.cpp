// Compiled without -fsanitize=thread: the hand-over between lanes is not part of the program under test.
#include "simt/runtime/lanes.h"

#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <exception>
#include <utility>

#include "simt/emulator/sanitizers.h"

extern "C" __attribute__((weak)) void __tsan_destroy_fiber(void* fiber);

namespace simt::runtime {
namespace {

constexpr unsigned kNoSync = 1;  // __tsan_switch_to_fiber_no_sync
constexpr std::size_t kStackBytes = std::size_t{1} << 20;

}  // namespace

bool race_detection() {
  return detail::with_tsan();
}

struct Lane::Fiber {
  void* self = __tsan_create_fiber(0);
  void* caller = nullptr;
  const std::function<void()>* job = nullptr;
  std::exception_ptr thrown;
  boost::context::fiber context;

  Fiber()
      : context(std::allocator_arg, boost::context::protected_fixedsize_stack(kStackBytes),
                [this](boost::context::fiber&& back) {
                  for (;;) {
                    if (job == nullptr) return std::move(back);  // the lane ends
                    try {
                      (*job)();
                    } catch (...) {
                      thrown = std::current_exception();
                    }
                    __tsan_switch_to_fiber(caller, kNoSync);
                    back = std::move(back).resume();
                  }
                }) {}

  void resume() {
    caller = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(self, kNoSync);
    context = std::move(context).resume();
  }
};

Lane::Lane() {
  if (race_detection()) fiber_ = std::make_unique<Fiber>();
}

Lane::~Lane() {
  if (fiber_ == nullptr) return;
  fiber_->job = nullptr;
  fiber_->context = std::move(fiber_->context).resume();
  __tsan_destroy_fiber(fiber_->self);
}

void Lane::run(const std::function<void()>& job) {
  if (fiber_ == nullptr) return job();
  fiber_->job = &job;
  fiber_->resume();
  if (fiber_->thrown) std::rethrow_exception(std::exchange(fiber_->thrown, nullptr));
}

void publish(const void* token) {
  detail::release(const_cast<void*>(token));
}

void receive(const void* token) {
  detail::acquire(const_cast<void*>(token));
}

}  // namespace simt::runtime
