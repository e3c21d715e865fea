#include "tools/signals.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

#include "kernels/base/error.h"

namespace cohort::tools {
namespace {

// Lock-free, hence safe in a handler.
std::atomic<int> request{0};
std::atomic<bool> window_changed{true};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

extern "C" void on_stop(int signal) {
  const int previous = request.exchange(signal);
  if (signal == SIGINT && previous == SIGINT) ::_exit(static_cast<int>(ErrorKind::kInterrupted));
}

extern "C" void on_window_change(int) {
  window_changed = true;
}

void install(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;  // a read of the data set must not fail because of a resized window
  sigaction(signal, &action, nullptr);
}

}  // namespace

void install_signal_handlers() {
  install(SIGINT, on_stop);
  install(SIGTERM, on_stop);
  install(SIGWINCH, on_window_change);
  install(SIGPIPE, SIG_IGN);
}

StopRequest stop_requested() {
  const int signal = request;
  if (signal == SIGINT) return StopRequest::kInterrupt;
  return signal == 0 ? StopRequest::kNone : StopRequest::kTerminate;
}

void clear_stop_request() {
  request = 0;
}

bool take_window_change() {
  return window_changed.exchange(false);
}

}  // namespace cohort::tools
