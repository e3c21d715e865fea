#include "core/append_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "tests/support/child_process.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_disk.h"
#include "tests/support/temporary_folder.h"

namespace cohort {
namespace {

using test::Crash;
using test::FaultFileSystem;
using test::SimDisk;
using test::TemporaryFolder;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Action = FaultFileSystem::Action;

std::string line_of(int i) {
  return "{\"step\":" + std::to_string(i) + ",\"text\":\"" +
         std::string(static_cast<std::size_t>(i % 40), 'x') + "\"}";
}

std::vector<std::string> first_lines(int count) {
  std::vector<std::string> lines;
  for (int i = 0; i < count; ++i) lines.push_back(line_of(i));
  return lines;
}

class AppendLogTest : public ::testing::Test {
 protected:
  std::vector<std::string> lines() { return read_log_lines(fs_, path_); }

  TemporaryFolder folder_;
  FileSystem& fs_ = system_file_system();
  std::string path_ = folder_ / "metrics.jsonl";
};

TEST_F(AppendLogTest, CutsBackToAMarkAndGoesOnByteForByte) {
  AppendLog::Mark mark;
  {
    AppendLog log(fs_, path_);
    EXPECT_EQ(log.sync().bytes, 0);
    for (int i = 0; i < 10; ++i) log.append(line_of(i));
    mark = log.sync();
    EXPECT_EQ(mark.bytes, log.bytes());
    for (int i = 10; i < 17; ++i) log.append(line_of(i));
  }
  const auto whole = read_file(fs_, path_, 1 << 20, ErrorKind::kInput);
  AppendLog log(fs_, path_);
  EXPECT_EQ(log.bytes(), static_cast<std::int64_t>(whole.size()));
  log.truncate_to(mark);
  EXPECT_EQ(lines(), first_lines(10));
  for (int i = 10; i < 17; ++i) log.append(line_of(i));
  EXPECT_EQ(read_file(fs_, path_, 1 << 20, ErrorKind::kInput), whole);
  EXPECT_EQ(log.sync().xxh3, xxh3_64(whole.data(), whole.size()));
}

TEST_F(AppendLogTest, ATornLastLineIsDroppedByReadersAndCutByWriters) {
  std::ofstream(path_) << "one\ntwo\nthr";
  EXPECT_THAT(lines(), ElementsAre("one", "two"));
  AppendLog log(fs_, path_);
  EXPECT_EQ(log.bytes(), 8);
  log.append("three");
  EXPECT_THAT(lines(), ElementsAre("one", "two", "three"));
  EXPECT_EQ(log.sync().xxh3, xxh3_64("one\ntwo\nthree\n", 14));
  std::ofstream(path_, std::ios::trunc) << "only a torn line";
  EXPECT_TRUE(lines().empty());
  EXPECT_EQ(AppendLog(fs_, path_).bytes(), 0);
}

TEST_F(AppendLogTest, RefusesAMarkThatDoesNotFitAndLeavesTheLog) {
  AppendLog log(fs_, path_);
  for (int i = 0; i < 5; ++i) log.append(line_of(i));
  const AppendLog::Mark good = log.sync();
  for (const AppendLog::Mark bad : {AppendLog::Mark{good.bytes + 1, good.xxh3},
                                    {good.bytes - 1, good.xxh3},
                                    {good.bytes, good.xxh3 ^ 1},
                                    {-1, 0}}) {
    try {
      log.truncate_to(bad);
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
      EXPECT_THAT(error.what(), HasSubstr(path_));
    }
  }
  EXPECT_EQ(lines(), first_lines(5));
  EXPECT_THROW(log.append("a\nb"), Error);
}

TEST_F(AppendLogTest, EveryErrorAtEveryCallLeavesOnlyWholeLines) {
  for (const int error : {ENOSPC, EIO, EROFS, EINTR}) {
    for (const Action action : {Action::kError, Action::kShort, Action::kCrash}) {
      for (std::int64_t at = 1;; ++at) {
        SCOPED_TRACE(::testing::Message() << "errno " << error << " at call " << at);
        std::filesystem::remove(path_);
        FaultFileSystem faulty(fs_);
        faulty.plan(action, at, error);
        int written = 0;
        try {
          AppendLog log(faulty, path_);
          for (; written < 4; ++written) log.append(line_of(written));
          log.sync();
        } catch (const Error& failure) {
          EXPECT_EQ(failure.kind(), ErrorKind::kOutput);
          EXPECT_TRUE(action == Action::kError && error != EINTR) << failure.what();
        } catch (const Crash&) {
        }
        EXPECT_FALSE(faulty.synced_after_failure());
        const auto left = std::filesystem::exists(path_) ? lines() : std::vector<std::string>();
        EXPECT_EQ(left, first_lines(written));
        if (!faulty.hit()) break;
      }
    }
  }
}

TEST_F(AppendLogTest, AfterAFailedSyncNothingMoreIsClaimed) {
  FaultFileSystem faulty(fs_);
  AppendLog log(faulty, path_);
  log.append("one");
  faulty.plan(Action::kError, 1, EIO);
  EXPECT_THROW(log.sync(), Error);
  EXPECT_THROW(log.sync(), Error);
  EXPECT_THROW(log.append("two"), Error);
  EXPECT_FALSE(faulty.synced_after_failure());
}

TEST_F(AppendLogTest, APowerCutKeepsWhatAMarkPromised) {
  SimDisk disk;
  std::mt19937_64 random(5);
  AppendLog::Mark mark;
  int promised = 0, states = 0;
  AppendLog log(disk, "/metrics.jsonl");
  disk.after_call = [&] {
    disk.for_each_crash(64, random, [&](SimDisk& after) {
      ++states;
      AppendLog again(after, "/metrics.jsonl");
      ASSERT_NO_THROW(again.truncate_to(mark));
      ASSERT_EQ(read_log_lines(after, "/metrics.jsonl"), first_lines(promised));
    });
  };
  mark = log.sync();
  for (int i = 0; i < 40; ++i) {
    log.append(line_of(i));
    if (i % 7 != 0) continue;
    const AppendLog::Mark next = log.sync();
    mark = next;
    promised = i + 1;
  }
  EXPECT_GT(states, 100);
}

TEST_F(AppendLogTest, SigkillLeavesWholeLinesInOrder) {
  std::mt19937_64 random(9);
  for (int round = 0; round < 20; ++round) {
    test::ChildProcess child([&] {
      AppendLog log(fs_, path_);
      const int begin = static_cast<int>(read_log_lines(fs_, path_).size());
      for (int i = begin;; ++i) log.append(line_of(i));
    });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    ASSERT_TRUE(child.kill()) << "the child ended by itself";
    if (!std::filesystem::exists(path_)) continue;
    const auto now = lines();
    ASSERT_EQ(now, first_lines(static_cast<int>(now.size())));
  }
  EXPECT_GT(lines().size(), 10U);
}

TEST_F(AppendLogTest, AMissingLogIsAnInputError) {
  try {
    lines();
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
  }
}

}  // namespace
}  // namespace cohort
