// Runs the built `cohort` binary in a folder and collects what it says.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/support/temporary_folder.h"

namespace cohort::test {

struct RunResult {
  int code = -1;  // 128 + signal when it was killed
  std::string out;
  std::string err;
};

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

// A started process; the destructor kills what still runs.
class CohortProcess {
 public:
  // `environment` entries are NAME=VALUE on top of the test's own; stdout goes to `out_path` when it is
  // given.
  CohortProcess(const std::vector<std::string>& arguments, const std::filesystem::path& folder,
                const std::vector<std::string>& environment = {}, const std::string& out_path = {}) {
    const std::string out = out_path.empty() ? (outputs_ / "out").string() : out_path;
    const std::string err = (outputs_ / "err").string();
    std::vector<char*> argv = {const_cast<char*>(COHORT_BINARY)};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ != 0) return;
    const int out_fd = open(out.c_str(), O_WRONLY | O_CREAT, 0644);
    const int err_fd = open(err.c_str(), O_WRONLY | O_CREAT, 0644);
    if (dup2(out_fd, 1) < 0 || dup2(err_fd, 2) < 0 || chdir(folder.c_str()) != 0) _exit(126);
    for (const std::string& entry : environment) putenv(const_cast<char*>(entry.c_str()));
    execv(COHORT_BINARY, argv.data());
    _exit(127);
  }
  ~CohortProcess() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      wait();
    }
  }
  CohortProcess(const CohortProcess&) = delete;
  CohortProcess& operator=(const CohortProcess&) = delete;

  pid_t pid() const { return pid_; }
  void signal(int number) const { kill(pid_, number); }
  std::string err_so_far() const { return read_text(outputs_ / "err"); }

  RunResult wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    RunResult result;
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    result.out = read_text(outputs_ / "out");
    result.err = read_text(outputs_ / "err");
    return result;
  }

 private:
  TemporaryFolder outputs_;
  pid_t pid_ = -1;
};

inline RunResult run_cohort(const std::vector<std::string>& arguments, const std::filesystem::path& folder,
                            const std::vector<std::string>& environment = {}) {
  return CohortProcess(arguments, folder, environment).wait();
}

}  // namespace cohort::test
