// One fiber: a stack with a guard page on which one CUDA thread after the other runs.
#pragma once

#include <boost/context/fiber.hpp>
#include <cstddef>

namespace simt::detail {

class Fiber {
 public:
  Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // What the next resume() of an idle fiber begins. `work` returns (it lets no exception out).
  void start(void (*work)(void*), void* argument);
  // From outside: runs until suspend() or the end of the work.
  void resume();
  // From inside: back to who resumed.
  void suspend();
  bool idle() const { return idle_; }

 private:
  void loop();

  boost::context::fiber inside_;   // the suspended work
  boost::context::fiber outside_;  // who resumed
  const char* bottom_ = nullptr;
  std::size_t size_ = 0;
  void (*work_)(void*) = nullptr;
  void* argument_ = nullptr;
  bool idle_ = true;
  void* tsan_inside_ = nullptr;
  void* tsan_outside_ = nullptr;
  void* asan_inside_ = nullptr;
  void* asan_outside_ = nullptr;
  const void* outside_bottom_ = nullptr;
  std::size_t outside_size_ = 0;
};

}  // namespace simt::detail
