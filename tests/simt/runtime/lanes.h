// Lanes: what the race detector takes for one line of execution on the device. Under ThreadSanitizer each
// lane is a fiber of its own, with its own stack, and happens-before edges between lanes and the host are
// exactly those made by publish() and receive(). In other builds run() is a call.
#pragma once

#include <functional>
#include <memory>

namespace simt::runtime {

bool race_detection();  // ThreadSanitizer is in this process

class Lane {
 public:
  Lane();
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // Returns when `job` has; rethrows what it threw.
  void run(const std::function<void()>& job);

 private:
  struct Fiber;
  std::unique_ptr<Fiber> fiber_;
};

// All that the caller's line has seen and done happens before what follows a receive() of the same token.
void publish(const void* token);
void receive(const void* token);

}  // namespace simt::runtime
