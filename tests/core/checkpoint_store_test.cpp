#include "core/checkpoint_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/checksum.h"
#include "tests/support/checkpoint_samples.h"
#include "tests/support/temporary_folder.h"

namespace cohort {
namespace {

using test::is_sample;
using test::SampleCheckpoint;
using test::TemporaryFolder;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CheckpointStoreTest : public ::testing::Test {
 protected:
  CheckpointStore open(CheckpointAccess access = CheckpointAccess::kWrite, int keep = 2) {
    return CheckpointStore(system_file_system(), folder_, access, keep);
  }
  void save(CheckpointStore& store, std::int64_t step) { store.save(step, SampleCheckpoint(step).files()); }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  void overwrite(const std::string& name, const std::string& text) { std::ofstream(path(name)) << text; }
  std::vector<std::string> names() { return list_folder(system_file_system(), folder_, ErrorKind::kInput); }

  template <class F>
  static std::string error_of(ErrorKind kind, F&& f) {
    try {
      f();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "no error";
    return {};
  }

  TemporaryFolder run_;
  std::string folder_ = run_ / "checkpoints";
};

TEST_F(CheckpointStoreTest, SavesLoadsPrunesAndPointsToTheLast) {
  CheckpointStore store = open();
  for (const std::int64_t step : {391, 782, 1173}) save(store, step);
  EXPECT_THAT(names(), ElementsAre("last", "step-00000782", "step-00001173"));
  EXPECT_THAT(list_folder(system_file_system(), path("last/"), ErrorKind::kInput),
              ElementsAre("DONE", "a.safetensors", "manifest.json", "state.json"));
  EXPECT_EQ(std::filesystem::read_symlink(path("last")), "step-00001173");
  const Checkpoint latest = open(CheckpointAccess::kRead).latest();
  EXPECT_EQ(latest.step, 1173);
  EXPECT_TRUE(is_sample(latest));
  EXPECT_EQ(latest.warning, "");
  EXPECT_TRUE(is_sample(store.load(782)));
  EXPECT_THAT(error_of(ErrorKind::kCheckpoint, [&] { store.load(391); }), HasSubstr("step-00000391"));
  EXPECT_THAT(error_of(ErrorKind::kCheckpoint, [&] { latest.file("c"); }), HasSubstr("has no file c"));
}

TEST_F(CheckpointStoreTest, KeepsAsManyAsAskedButNeverFewerThanTwo) {
  for (const auto& [keep, expected] : {std::pair{1, 2}, {2, 2}, {4, 4}, {0, 6}}) {
    std::filesystem::remove_all(folder_);
    CheckpointStore store = open(CheckpointAccess::kWrite, keep);
    for (std::int64_t step = 1; step <= 6; ++step) save(store, step);
    EXPECT_EQ(static_cast<int>(store.steps().size()), expected) << keep;
    EXPECT_EQ(store.steps().back(), 6);
  }
}

TEST_F(CheckpointStoreTest, StepsPastEightDigitsStayInOrder) {
  CheckpointStore store = open();
  for (const std::int64_t step : {99'999'999LL, 100'000'000LL, 5'000'000'000LL}) save(store, step);
  EXPECT_EQ(store.latest().step, 5'000'000'000LL);
  EXPECT_THAT(store.steps(), ElementsAre(100'000'000LL, 5'000'000'000LL));
}

TEST_F(CheckpointStoreTest, EveryDamageGoesBackToThePreviousCheckpoint) {
  const std::string newest = "step-00000782/";
  const std::vector<std::pair<std::string, std::function<void()>>> damages = {
      {"a.safetensors", [&] { std::filesystem::remove(path(newest + "a.safetensors")); }},
      {"a.safetensors", [&] { std::filesystem::resize_file(path(newest + "a.safetensors"), 100); }},
      {"a.safetensors", [&] { std::filesystem::resize_file(path(newest + "a.safetensors"), 5000); }},
      {"state.json",
       [&] {
         std::fstream file(path(newest + "state.json"), std::ios::in | std::ios::out);
         file.seekp(700);
         file.put(static_cast<char>(~static_cast<int>(test::sample_bytes(782, 1)[700])));
       }},
      {"DONE", [&] { std::filesystem::remove(path(newest + "DONE")); }},
      {"manifest.json", [&] { overwrite(newest + "DONE", "xxh3 0000000000000000\n"); }},
      {"manifest.json", [&] { overwrite(newest + "manifest.json", "{}"); }},
      {"manifest.json", [&] { std::filesystem::remove(path(newest + "manifest.json")); }},
      {"step-00000782",
       [&] {
         std::filesystem::remove_all(path("step-00000782"));
         overwrite("step-00000782", "a file");
       }},
      {"a.safetensors",
       [&] {  // a link to a good file elsewhere: not followed
         std::filesystem::rename(path(newest + "a.safetensors"), run_ / "elsewhere");
         std::filesystem::create_symlink(run_ / "elsewhere", path(newest + "a.safetensors"));
       }},
      {"step-00000782",
       [&] {
         std::filesystem::rename(path("step-00000782"), run_ / "elsewhere_folder");
         std::filesystem::create_symlink(run_ / "elsewhere_folder", path("step-00000782"));
       }},
  };
  for (const auto& [culprit, damage] : damages) {
    std::filesystem::remove_all(folder_);
    CheckpointStore store = open();
    save(store, 391);
    save(store, 782);
    damage();
    const Checkpoint latest = store.latest();
    EXPECT_EQ(latest.step, 391);
    EXPECT_TRUE(is_sample(latest));
    EXPECT_THAT(latest.warning, HasSubstr(culprit));
    save(store, 782);  // the damaged one is replaced
    EXPECT_TRUE(is_sample(store.latest()));
    EXPECT_EQ(store.latest().step, 782);
    EXPECT_EQ(test::leftovers(system_file_system(), folder_), 0);
  }
}

TEST_F(CheckpointStoreTest, NothingUsableIsAnErrorThatSaysWhy) {
  EXPECT_THAT(error_of(ErrorKind::kCheckpoint, [&] { open(CheckpointAccess::kRead).latest(); }),
              HasSubstr("checkpoints"));
  CheckpointStore store = open();
  EXPECT_THAT(error_of(ErrorKind::kCheckpoint, [&] { store.latest(); }), HasSubstr("no usable checkpoint"));
  save(store, 5);
  overwrite("step-00000005/DONE", "");
  EXPECT_THAT(error_of(ErrorKind::kCheckpoint, [&] { store.latest(); }), HasSubstr("manifest.json"));
}

TEST_F(CheckpointStoreTest, ANewerFormatIsRefusedAndNotPassedOver) {
  CheckpointStore store = open();
  save(store, 1);
  save(store, 2);
  const std::string manifest = R"({"version":2,"step":2,"files":[]})";
  overwrite("step-00000002/manifest.json", manifest);
  overwrite("step-00000002/DONE", "xxh3 " + checksum_text(xxh3_64(manifest.data(), manifest.size())) + "\n");
  EXPECT_THAT(error_of(ErrorKind::kCheckpoint, [&] { store.latest(); }), HasSubstr("version 2"));
}

TEST_F(CheckpointStoreTest, AManifestCannotReachOutOfItsFolder) {
  std::ofstream(run_ / "secret") << "12345";
  CheckpointStore store = open();
  for (const std::string name : {"../../secret", "/etc/passwd", "..", "", "DONE", "a\\u0000b"}) {
    save(store, 2);
    const std::string manifest = R"({"version":1,"step":2,"files":[{"name":")" + name +
                                 R"(","bytes":5,"xxh3":")" + checksum_text(xxh3_64("12345", 5)) + R"("}]})";
    overwrite("step-00000002/manifest.json", manifest);
    overwrite("step-00000002/DONE",
              "xxh3 " + checksum_text(xxh3_64(manifest.data(), manifest.size())) + "\n");
    EXPECT_THAT(error_of(ErrorKind::kCheckpoint, [&] { store.load(2); }), HasSubstr("file name")) << name;
  }
}

TEST_F(CheckpointStoreTest, BestIsReplacedAsAWhole) {
  CheckpointStore store = open();
  EXPECT_THAT(error_of(ErrorKind::kCheckpoint, [&] { store.best(); }), HasSubstr("best"));
  for (const std::int64_t step : {10, 20, 20, 15}) {
    store.save_best(step, SampleCheckpoint(step).files());
    EXPECT_EQ(store.best().step, step);
    EXPECT_TRUE(is_sample(store.best()));
    EXPECT_TRUE(std::filesystem::exists(path("best/a.safetensors")));
  }
  EXPECT_THAT(names(), ElementsAre("best", "best-00000015"));
  std::filesystem::remove(path("best"));
  std::filesystem::create_symlink("../../elsewhere", path("best"));
  EXPECT_THAT(error_of(ErrorKind::kCheckpoint, [&] { store.best(); }), HasSubstr("../../elsewhere"));
}

TEST_F(CheckpointStoreTest, OpeningForWritingRemovesWhatACrashLeftAndNothingElse) {
  {
    CheckpointStore store = open();
    save(store, 7);
  }
  for (const char* name : {"tmp-123-0", "tmp-1-99", "tmp-notes", "old-step-00000007", "mine"}) {
    std::filesystem::create_directory(path(name));
    overwrite(std::string(name) + "/file", "x");
  }
  open(CheckpointAccess::kRead).latest();
  EXPECT_TRUE(std::filesystem::exists(path("tmp-123-0")));  // readers change nothing
  open();
  EXPECT_THAT(names(), ElementsAre("last", "mine", "step-00000007", "tmp-notes"));
  std::filesystem::rename(path("step-00000007"),
                          path("old-step-00000007"));  // killed between the two renames
  EXPECT_TRUE(is_sample(open().load(7)));
}

TEST_F(CheckpointStoreTest, GoingBackDropsTheAbandonedSteps) {
  CheckpointStore store = open(CheckpointAccess::kWrite, 5);
  for (const std::int64_t step : {1, 2, 3, 4}) save(store, step);
  store.discard_after(2);
  EXPECT_THAT(store.steps(), ElementsAre(1, 2));
  EXPECT_EQ(std::filesystem::read_symlink(path("last")), "step-00000002");
  EXPECT_EQ(store.latest().step, 2);
}

TEST_F(CheckpointStoreTest, BadFoldersAreOutputErrors) {
  const auto fails = [&](const std::string& folder) {
    return error_of(ErrorKind::kOutput,
                    [&] { CheckpointStore(system_file_system(), folder, CheckpointAccess::kWrite); });
  };
  std::ofstream(run_ / "file") << "x";
  EXPECT_THAT(fails(run_ / "file"), HasSubstr("not a folder"));
  EXPECT_THAT(fails(run_ / "file/checkpoints"), HasSubstr("Not a directory"));
  EXPECT_THAT(fails(run_ / "missing/checkpoints"), HasSubstr("No such file"));
  std::filesystem::create_directory(run_ / "outside");
  std::filesystem::create_directory_symlink(run_ / "outside", run_ / "link");
  EXPECT_THAT(fails(run_ / "link"), HasSubstr("symbolic link"));
  EXPECT_TRUE(std::filesystem::is_empty(run_ / "outside"));
}

TEST_F(CheckpointStoreTest, MisuseIsABugReport) {
  CheckpointStore store = open();
  const std::vector<std::byte> bytes(3);
  for (const std::string name : {"a/b", "..", "", "DONE", "manifest.json"}) {
    const CheckpointFile file{name, bytes};
    error_of(ErrorKind::kInternal, [&] { store.save(1, {&file, 1}); });
  }
  const CheckpointFile twice[] = {{"a", bytes}, {"a", bytes}};
  error_of(ErrorKind::kInternal, [&] { store.save(1, twice); });
  CheckpointStore reader = open(CheckpointAccess::kRead);
  error_of(ErrorKind::kInternal, [&] { reader.save(1, {}); });
  EXPECT_TRUE(names().empty());
}

}  // namespace
}  // namespace cohort
