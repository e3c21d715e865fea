#include "core/file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

#include "core/checksum.h"
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

std::string text_of(FileSystem& fs, const std::string& path) {
  const auto bytes = read_file(fs, path, 1 << 20, ErrorKind::kInput);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string error_of(ErrorKind kind, const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  return "no error";
}

TEST(FileSystem, DurableReplaceIsAllOrNothingUnderEveryFault) {
  for (const Action action : {Action::kError, Action::kCrash, Action::kShort}) {
    for (const int error : {ENOSPC, EIO, EROFS, EINTR}) {
      for (std::int64_t at = 1;; ++at) {
        SCOPED_TRACE(::testing::Message() << "errno " << error << " at call " << at);
        TemporaryFolder folder;
        const std::string path = folder / "summary.json";
        durable_replace(system_file_system(), path, as_byte_span("old"));
        FaultFileSystem fs(system_file_system());
        fs.plan(action, at, error);
        bool done = false;
        try {
          durable_replace(fs, path, as_byte_span("new bytes"));
          done = true;
        } catch (const Error& failure) {
          EXPECT_EQ(failure.kind(), ErrorKind::kOutput);
          EXPECT_THAT(failure.what(), HasSubstr(folder.path()));
        } catch (const Crash&) {
        }
        EXPECT_FALSE(fs.synced_after_failure());
        EXPECT_TRUE(done || (action != Action::kShort && !(action == Action::kError && error == EINTR)));
        const std::string now = text_of(system_file_system(), path);
        EXPECT_TRUE(now == "new bytes" || (!done && now == "old")) << now;
        const auto names = list_folder(system_file_system(), folder.path(), ErrorKind::kInput);
        EXPECT_TRUE(names.size() == 1 || action == Action::kCrash) << names.size();
        if (!fs.hit()) break;
      }
    }
  }
}

TEST(FileSystem, DurableReplaceSurvivesAPowerCutAtEveryCall) {
  SimDisk disk;
  durable_replace(disk, "/summary.json", as_byte_span("old"));
  std::mt19937_64 random(1);
  int states = 0;
  bool done = false;
  const auto look = [&] {
    disk.for_each_crash(256, random, [&](SimDisk& after) {
      const std::string now = text_of(after, "/summary.json");
      ASSERT_TRUE(now == "new" || (!done && now == "old")) << now;
      ++states;
    });
  };
  disk.after_call = look;
  durable_replace(disk, "/summary.json", as_byte_span("new"));
  done = true;
  look();
  EXPECT_GT(states, 10);
}

TEST(FileSystem, ReplacesALinkAndNeverFollowsIt) {
  TemporaryFolder folder;
  FileSystem& fs = system_file_system();
  std::ofstream(folder / "victim") << "precious";
  std::filesystem::create_symlink(folder / "victim", folder / "config.toml");
  durable_replace(fs, folder / "config.toml", as_byte_span("mine"));
  EXPECT_EQ(text_of(fs, folder / "victim"), "precious");
  EXPECT_FALSE(std::filesystem::is_symlink(folder / "config.toml"));
  std::filesystem::create_symlink(folder / "victim", folder / "log");
  EXPECT_THAT(
      error_of(ErrorKind::kOutput, [&] { File(fs, folder / "log", OpenMode::kAppend, ErrorKind::kOutput); }),
      HasSubstr("symbolic link"));
  EXPECT_THAT(error_of(ErrorKind::kOutput, [&] { write_new_file(fs, folder / "log", as_byte_span("x")); }),
              HasSubstr("File exists"));
  EXPECT_EQ(text_of(fs, folder / "victim"), "precious");
}

TEST(FileSystem, AFullDiskIsReportedWithBytesNeeded) {
  if (::access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
  File file(system_file_system(), "/dev/full", OpenMode::kAppend, ErrorKind::kOutput);
  const std::string message = error_of(ErrorKind::kOutput, [&] { file.write_all(as_byte_span("12345")); });
  EXPECT_THAT(message, HasSubstr("cannot write /dev/full: No space left on device (5 bytes needed, "));
}

TEST(FileSystem, ReadFileRefusesWhatIsNotAPlainFile) {
  TemporaryFolder folder;
  FileSystem& fs = system_file_system();
  std::ofstream(folder / "ten") << "0123456789";
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  const auto reads = [&](const std::string& path, std::int64_t limit) {
    return error_of(ErrorKind::kInput, [&] { read_file(fs, path, limit, ErrorKind::kInput); });
  };
  EXPECT_EQ(reads(folder / "ten", 10), "no error");
  EXPECT_THAT(reads(folder / "ten", 9), HasSubstr("too large: 10 bytes, at most 9"));
  EXPECT_THAT(reads(folder / "none", 9), HasSubstr("No such file"));
  EXPECT_THAT(reads(folder.path(), 9), HasSubstr("Is a directory"));
  EXPECT_THAT(reads(folder / "pipe", 9), HasSubstr("not a regular file"));  // and does not hang
  EXPECT_THAT(reads("/dev/zero", 9), HasSubstr("not a regular file"));
  EXPECT_EQ(error_of(ErrorKind::kCheckpoint, [&] { read_file(fs, folder / "x", 1, ErrorKind::kCheckpoint); })
                .find("cannot open"),
            0U);
}

TEST(FileSystem, AFileThatShrinksWhileItIsReadIsAnError) {
  class Shrinking final : public FileSystem {
    std::int64_t read_at(int, void*, std::size_t, std::int64_t) override { return 0; }
  } fs;
  TemporaryFolder folder;
  std::ofstream(folder / "f") << "0123456789";
  EXPECT_THAT(error_of(ErrorKind::kInput, [&] { read_file(fs, folder / "f", 10, ErrorKind::kInput); }),
              HasSubstr("ends early"));
}

TEST(FileSystem, AWriteThatTakesNothingDoesNotLoopForEver) {
  class Stuck final : public FileSystem {
    std::int64_t write(int, const void*, std::size_t) override { return 0; }
  } fs;
  TemporaryFolder folder;
  error_of(ErrorKind::kOutput, [&] { durable_replace(fs, folder / "f", as_byte_span("x")); });
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(FileSystem, FoldersAreMadeAlsoWhileAnotherProcessMakesThem) {
  class Second final : public FileSystem {
    int make_folder(const std::string& path) override {
      std::filesystem::create_directory(path);  // the other process, after find_entry() saw nothing
      return FileSystem::make_folder(path);
    }
  } second;
  TemporaryFolder folder;
  std::filesystem::create_directory(folder / "real");
  std::filesystem::create_directory_symlink("real", folder / "link");
  for (FileSystem* fs : {static_cast<FileSystem*>(&second), &system_file_system()}) {
    const std::string name = fs == &second ? "two" : "one";
    make_folders(*fs, folder / ("link//" + name + "/b/"));
    make_folders(*fs, folder / ("link//" + name + "/b/"));  // all there
    EXPECT_TRUE(std::filesystem::is_directory(folder / ("real/" + name + "/b")));
  }
  std::ofstream(folder / "file") << "x";
  EXPECT_THAT(error_of(ErrorKind::kOutput, [&] { make_folders(second, folder / "file/b"); }),
              HasSubstr("Not a directory"));
}

TEST(FileSystem, RemoveTreeRemovesLinksAndNotTheirTargets) {
  TemporaryFolder folder;
  FileSystem& fs = system_file_system();
  std::filesystem::create_directories(folder / "a/b/c");
  std::filesystem::create_directory(folder / "outside");
  std::ofstream(folder / "outside/file") << "x";
  std::filesystem::create_directory_symlink(folder / "outside", folder / "a/b/link");
  std::filesystem::create_symlink("nowhere", folder / "a/dangling");
  remove_tree(fs, folder / "a");
  remove_tree(fs, folder / "a");  // missing is fine
  EXPECT_THAT(list_folder(fs, folder.path(), ErrorKind::kInput), ElementsAre("outside"));
  EXPECT_TRUE(std::filesystem::exists(folder / "outside/file"));
}

TEST(FileSystem, AReadOnlyFolderIsAnOutputError) {
  TemporaryFolder folder;
  std::filesystem::create_directory(folder / "closed");
  std::filesystem::permissions(folder / "closed",
                               std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  const pid_t child = ::fork();  // root may write everywhere: try as nobody
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::geteuid() == 0) {
      ::chmod(folder.path().c_str(), 0755);
      if (::chmod((folder / "closed").c_str(), 0555) != 0 || ::setuid(65534) != 0) ::_exit(9);
    }
    try {
      durable_replace(system_file_system(), folder / "closed/file", as_byte_span("x"));
    } catch (const Error& error) {
      ::_exit(error.kind() == ErrorKind::kOutput && !error.hint().empty() ? 0 : 1);
    }
    ::_exit(2);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(FileSystem, PathsAndTemporaryNames) {
  EXPECT_EQ(join_path("a", "b"), "a/b");
  EXPECT_EQ(join_path("a/", "b"), "a/b");
  EXPECT_EQ(parent_path("a/b"), "a");
  EXPECT_EQ(parent_path("a/b/"), "a");
  EXPECT_EQ(parent_path("a"), ".");
  EXPECT_EQ(parent_path("/a"), "/");
  EXPECT_EQ(parent_path("/"), "/");
  EXPECT_NE(unique_name(), unique_name());
  EXPECT_TRUE(is_temporary_name(unique_name()));
  for (const char* name :
       {"tmp-", "tmp-1", "tmp-1-", "tmp--1", "tmp-a-1", "tmp-1-a", "xtmp-1-1", "tmp-1-1x", ""}) {
    EXPECT_FALSE(is_temporary_name(name)) << name;
  }
}

TEST(Checksum, StreamEqualsOneShotAndTextRoundTrips) {
  EXPECT_EQ(checksum_text(xxh3_64("", 0)), "2d06800538d394c2");  // known answer of XXH3-64 with seed 0
  const std::string text(100'000, 'x');
  Xxh3Stream stream;
  for (std::size_t at = 0, part = 0; at < text.size(); at += part) {
    part = std::min<std::size_t>(1 + at % 777, text.size() - at);
    stream.update(std::string_view(text).substr(at, part));
  }
  EXPECT_EQ(stream.digest(), xxh3_64(text.data(), text.size()));
  EXPECT_EQ(parse_checksum("2d06800538d394c2"), xxh3_64("", 0));
  for (const char* bad :
       {"", "2d06800538d394c", "2D06800538D394C2", "2d06800538d394c2 ", "g000000000000000"}) {
    EXPECT_FALSE(parse_checksum(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace cohort
