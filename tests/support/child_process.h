// A forked child that runs f() until it returns or is killed. It dies with the parent and with the object, so
// that no test leaves one behind.
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <stdexcept>
#include <utility>

namespace cohort::test {

class ChildProcess {
 public:
  template <class F>
  explicit ChildProcess(F&& f) : pid_(::fork()) {
    if (pid_ < 0) throw std::runtime_error("ChildProcess: fork failed");
    if (pid_ > 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    try {
      f();
    } catch (...) {
      ::_exit(99);
    }
    ::_exit(0);
  }
  ChildProcess(const ChildProcess&) = delete;
  ~ChildProcess() {
    if (pid_ > 0) kill();
  }

  pid_t pid() const { return pid_; }

  // True when the child was still running.
  bool kill() {
    ::kill(pid_, SIGKILL);
    return WIFSIGNALED(wait());
  }

  // Its wait status.
  int wait() {
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return status;
  }

 private:
  pid_t pid_;
};

}  // namespace cohort::test
