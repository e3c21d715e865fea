#include "core/run_lock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "tests/support/child_process.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/temporary_folder.h"

namespace cohort {
namespace {

using test::FaultFileSystem;
using test::TemporaryFolder;
using ::testing::HasSubstr;

std::optional<Error> take_lock(FileSystem& fs, const std::string& folder) {
  try {
    RunLock lock(fs, folder);
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

TEST(RunLock, TheSecondOpenerIsToldWhoHoldsIt) {
  TemporaryFolder run;
  FileSystem& fs = system_file_system();
  {
    const RunLock lock(fs, run.path());
    const auto error = take_lock(fs, run.path());  // another open file: flock treats it as another process
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->kind(), ErrorKind::kBusy);
    char host[256] = {};
    ASSERT_EQ(::gethostname(host, sizeof(host) - 1), 0);
    EXPECT_THAT(error->what(),
                HasSubstr("pid " + std::to_string(::getpid()) + " on host " + host + ", started 20"));
    EXPECT_FALSE(error->hint().empty());
    std::ofstream(run / ".lock", std::ios::trunc) << "\xff not json";
    EXPECT_THAT(take_lock(fs, run.path())->what(), HasSubstr("pid unknown"));
  }
  EXPECT_FALSE(take_lock(fs, run.path()).has_value());
}

TEST(RunLock, TheKernelDropsTheLockOfAKilledProcess) {
  TemporaryFolder run;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  test::ChildProcess child([&] {
    const RunLock lock(system_file_system(), run.path());
    if (::write(ready[1], "x", 1) != 1) return;
    for (;;) ::pause();
  });
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  const auto busy = take_lock(system_file_system(), run.path());
  ASSERT_TRUE(busy.has_value());
  EXPECT_THAT(busy->what(), HasSubstr("pid " + std::to_string(child.pid())));
  ASSERT_TRUE(child.kill());
  EXPECT_FALSE(take_lock(system_file_system(), run.path()).has_value());
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST(RunLock, OfManyRacersExactlyOneWins) {
  for (int round = 0; round < 50; ++round) {
    TemporaryFolder run;
    int start[2];
    ASSERT_EQ(::pipe(start), 0);
    std::vector<pid_t> children;
    for (int i = 0; i < 4; ++i) {
      const pid_t child = ::fork();
      ASSERT_GE(child, 0);
      if (child == 0) {
        char byte = 0;
        ::close(start[1]);
        if (::read(start[0], &byte, 1) != 0) ::_exit(9);  // returns when the parent closes its end
        try {
          const RunLock lock(system_file_system(), run.path());
          // Holds it until all others have tried.
          while (!std::filesystem::exists(run / "over")) std::this_thread::yield();
          ::_exit(0);
        } catch (const Error& error) {
          ::_exit(error.exit_code());
        }
      }
      children.push_back(child);
    }
    ::close(start[0]);
    ::close(start[1]);
    int winners = 0, busy = 0;
    for (int i = 0; i < 4; ++i) {
      if (i == 3) std::ofstream(run / "over") << "x";
      int status = 0;
      ASSERT_GT(::wait(&status), 0);
      ASSERT_TRUE(WIFEXITED(status));
      winners += WEXITSTATUS(status) == 0 ? 1 : 0;
      busy += WEXITSTATUS(status) == static_cast<int>(ErrorKind::kBusy) ? 1 : 0;
    }
    ASSERT_EQ(winners, 1);
    ASSERT_EQ(busy, 3);
  }
}

TEST(RunLock, FaultsAndBadFoldersAreOutputErrors) {
  TemporaryFolder run;
  std::ofstream(run / "file") << "x";
  std::filesystem::create_directory(run / "linked");
  std::filesystem::create_symlink(run / "file", run / "linked/.lock");
  for (const std::filesystem::path& folder : {run / "none", run / "file", run / "linked"}) {
    const auto error = take_lock(system_file_system(), folder);
    ASSERT_TRUE(error.has_value()) << folder;
    EXPECT_EQ(error->kind(), ErrorKind::kOutput);
  }
  for (const int code : {EIO, ENOSPC, EROFS, ENOLCK, EOPNOTSUPP, EINTR}) {
    for (std::int64_t at = 1;; ++at) {
      FaultFileSystem fs(system_file_system());
      fs.plan(FaultFileSystem::Action::kError, at, code);
      const auto error = take_lock(fs, run.path());
      if (!fs.hit()) break;
      if (!error) continue;  // interrupted, or the close of the destructor
      EXPECT_NE(code, EINTR);
      EXPECT_EQ(error->kind(), ErrorKind::kOutput) << error->what();
    }
  }
}

}  // namespace
}  // namespace cohort
