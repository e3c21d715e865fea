// Errors of the whole project: one exception type whose kind decides the exit code of the binary.
//
// A message says what is wrong and where (file, offset, key, shape), the hint says what to do next.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace cohort {

// The values are the documented exit codes (README, "Exit codes").
enum class ErrorKind : int {
  kInternal = 1,      // a bug in Cohort
  kUsage = 2,         // command line or configuration
  kInput = 3,         // a data set or another input file is missing or damaged
  kOutput = 4,        // the run folder or the disk
  kMemory = 5,        // host or device memory exhausted
  kDevice = 6,        // device or driver
  kNotFinite = 7,     // NaN or Inf where numbers must be finite
  kBusy = 8,          // the run folder is in use by another process
  kCheckpoint = 9,    // a checkpoint is unusable or does not match
  kStopped = 75,      // stopped by SIGTERM or a time limit, after saving
  kInterrupted = 130  // Ctrl-C, after saving
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message, std::string hint = {})
      : std::runtime_error(message), kind_(kind), hint_(std::move(hint)) {}

  ErrorKind kind() const { return kind_; }
  int exit_code() const { return static_cast<int>(kind_); }
  const std::string& hint() const { return hint_; }

 private:
  ErrorKind kind_;
  std::string hint_;
};

// For conditions that only a bug can break.
[[noreturn]] inline void internal_error(const std::string& message) {
  throw Error(ErrorKind::kInternal, message, "this is a bug in cohort: please report it");
}

inline void check(bool condition, const char* message) {
  if (!condition) internal_error(message);
}

}  // namespace cohort
