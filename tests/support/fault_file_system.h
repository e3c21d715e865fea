// A FileSystem that does one thing wrong: at the k-th call it reports an errno, is interrupted, does part of
// the work, or crashes. After a crash nothing changes on disk any more: every later call throws Crash (close
// only closes).
#pragma once

#include <cerrno>
#include <cstdint>
#include <string>
#include <vector>

#include "core/file_system.h"

namespace cohort::test {

struct Crash {};  // not an Error: no handler of the code under test may catch it

class FaultFileSystem final : public FileSystem {
 public:
  enum class Action { kNone, kError, kCrash, kShort };

  explicit FaultFileSystem(FileSystem& base) : base_(base) {}

  // Calls count from 1 after each plan().
  void plan(Action action, std::int64_t at, int error = EIO) {
    action_ = action;
    at_ = at;
    error_ = error;
    calls_ = 0;
    hit_ = false;
    synced_after_failure_ = false;
  }
  std::int64_t calls() const { return calls_; }
  bool hit() const { return hit_; }
  bool synced_after_failure() const { return synced_after_failure_; }

  int open(const std::string& path, OpenMode mode) override {
    return run([&] { return base_.open(path, mode); });
  }
  int close(int fd) override {
    ++calls_;
    const int code = base_.close(fd);
    if (fd == failed_sync_) failed_sync_ = -1;
    if (calls_ != at_ || dead_) return code;
    hit_ = true;
    if (action_ == Action::kCrash) dead_ = true;  // thrown by the next call: a destructor may be closing
    return action_ == Action::kError ? -error_ : code;
  }
  std::int64_t write(int fd, const void* data, std::size_t bytes) override {
    return run([&] { return base_.write(fd, data, shorten(bytes)); });
  }
  std::int64_t read_at(int fd, void* data, std::size_t bytes, std::int64_t offset) override {
    return run([&] { return base_.read_at(fd, data, shorten(bytes), offset); });
  }
  int truncate(int fd, std::int64_t bytes) override {
    return run([&] { return base_.truncate(fd, bytes); });
  }
  int sync(int fd) override {
    return watched_sync(fd, [&] { return base_.sync(fd); });
  }
  int sync_data(int fd) override {
    return watched_sync(fd, [&] { return base_.sync_data(fd); });
  }
  int lock(int fd) override {
    return run([&] { return base_.lock(fd); });
  }
  int info_of(int fd, FileInfo& info) override {
    return run([&] { return base_.info_of(fd, info); });
  }
  int info(const std::string& path, FileInfo& info) override {
    return run([&] { return base_.info(path, info); });
  }
  int rename(const std::string& from, const std::string& to) override {
    return run([&] { return base_.rename(from, to); });
  }
  int unlink(const std::string& path) override {
    return run([&] { return base_.unlink(path); });
  }
  int make_folder(const std::string& path) override {
    return run([&] { return base_.make_folder(path); });
  }
  int remove_folder(const std::string& path) override {
    return run([&] { return base_.remove_folder(path); });
  }
  int make_link(const std::string& target, const std::string& path) override {
    return run([&] { return base_.make_link(target, path); });
  }
  int read_link(const std::string& path, std::string& target) override {
    return run([&] { return base_.read_link(path, target); });
  }
  int list(const std::string& path, std::vector<std::string>& names) override {
    return run([&] { return base_.list(path, names); });
  }
  std::int64_t free_bytes(const std::string& path) override {
    return run([&] { return base_.free_bytes(path); });
  }

 private:
  template <class Call>
  auto run(Call&& call) -> decltype(call()) {
    ++calls_;
    if (dead_) throw Crash();
    if (calls_ != at_) return call();
    hit_ = true;
    if (action_ == Action::kError) return -error_;
    if (action_ == Action::kCrash) {
      dead_ = true;
      throw Crash();
    }
    return call();
  }

  template <class Call>
  int watched_sync(int fd, Call&& call) {
    synced_after_failure_ |= fd == failed_sync_;
    const int code = run(call);
    if (code < 0 && code != -EINTR) failed_sync_ = fd;
    return code;
  }

  std::size_t shorten(std::size_t bytes) const {
    return action_ == Action::kShort && calls_ == at_ && bytes > 1 ? bytes / 2 : bytes;
  }

  FileSystem& base_;
  Action action_ = Action::kNone;
  std::int64_t at_ = 0;
  int error_ = EIO;
  std::int64_t calls_ = 0;
  bool hit_ = false;
  bool dead_ = false;
  int failed_sync_ = -1;
  bool synced_after_failure_ = false;
};

}  // namespace cohort::test
