// Faults at every call, kills at every call and at random times, and power cuts at every call, while
// checkpoints are saved. The oracle each time: what was acknowledged is there and whole, nothing half is
// taken for whole, and the next run goes on.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <random>
#include <thread>

#include "core/checkpoint_store.h"
#include "tests/support/checkpoint_samples.h"
#include "tests/support/child_process.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_disk.h"
#include "tests/support/temporary_folder.h"

namespace cohort {
namespace {

using test::Crash;
using test::FaultFileSystem;
using test::half_folders;
using test::is_sample;
using test::leftovers;
using test::SampleCheckpoint;
using test::SimDisk;
using test::TemporaryFolder;
using Action = FaultFileSystem::Action;

constexpr int kNoFault = 1 << 20;

void open_and_save(FileSystem& fs, const std::string& folder, std::int64_t step) {
  CheckpointStore store(fs, folder, CheckpointAccess::kWrite);
  store.save(step, SampleCheckpoint(step).files());
  store.save_best(step, SampleCheckpoint(step).files());
}

// Steps 1 and 2 are there; a run opens the store and saves step 3 (which prunes 1) and a new best.
struct Scene {
  Scene() {
    for (const std::int64_t step : {1, 2}) open_and_save(system_file_system(), folder, step);
  }

  // After the fault or the kill, with a sound disk.
  void expect_sound(std::int64_t at_least) {
    FileSystem& fs = system_file_system();
    EXPECT_EQ(half_folders(fs, folder), 0);
    CheckpointStore store(fs, folder, CheckpointAccess::kWrite);
    const Checkpoint latest = store.latest();
    EXPECT_GE(latest.step, at_least);
    EXPECT_TRUE(is_sample(latest));
    EXPECT_EQ(latest.warning, "");
    EXPECT_TRUE(is_sample(store.best()));
    EXPECT_EQ(leftovers(fs, folder), 0);
    store.save(4, SampleCheckpoint(4).files());
    EXPECT_EQ(store.latest().step, 4);
  }

  TemporaryFolder run;
  std::string folder = run / "checkpoints";
};

std::int64_t calls_of_a_save() {
  Scene scene;
  FaultFileSystem fs(system_file_system());
  fs.plan(Action::kNone, kNoFault);
  open_and_save(fs, scene.folder, 3);
  return fs.calls();
}

TEST(CheckpointCrash, EveryErrorAtEveryCallKeepsTheEarlierCheckpoints) {
  const std::int64_t calls = calls_of_a_save();
  ASSERT_GT(calls, 60);
  int failures = 0;
  for (const int error : {ENOSPC, EIO, EROFS, EDQUOT, EACCES, EMFILE}) {
    for (std::int64_t at = 1; at <= calls; ++at) {
      SCOPED_TRACE(::testing::Message() << "errno " << error << " at call " << at);
      Scene scene;
      FaultFileSystem fs(system_file_system());
      fs.plan(Action::kError, at, error);
      std::int64_t acknowledged = 2;
      try {
        open_and_save(fs, scene.folder, 3);
        acknowledged = 3;
      } catch (const Error& failure) {
        ++failures;
        EXPECT_EQ(failure.kind(), ErrorKind::kOutput) << failure.what();
        EXPECT_NE(std::string(failure.what()).find(scene.folder), std::string::npos) << failure.what();
      }
      EXPECT_TRUE(fs.hit());
      EXPECT_FALSE(fs.synced_after_failure());
      scene.expect_sound(acknowledged);
    }
  }
  // Only errors that close() reports in a destructor may pass unseen.
  EXPECT_GE(failures, 6 * (calls - 6));
}

TEST(CheckpointCrash, AFailedSaveGivesItsSpaceBackAndTheNextOneSucceeds) {
  Scene scene;
  FaultFileSystem fs(system_file_system());
  CheckpointStore store(fs, scene.folder, CheckpointAccess::kWrite);
  fs.plan(Action::kError, 3, ENOSPC);  // folder, create, write
  try {
    store.save(3, SampleCheckpoint(3).files());
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("bytes needed"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("bytes free"), std::string::npos) << error.what();
  }
  EXPECT_EQ(leftovers(system_file_system(), scene.folder), 0);
  store.save(3, SampleCheckpoint(3).files());
  EXPECT_EQ(store.latest().step, 3);
}

TEST(CheckpointCrash, InterruptedCallsAndShortWritesAreInvisible) {
  const std::int64_t calls = calls_of_a_save();
  for (const Action action : {Action::kError, Action::kShort}) {
    for (std::int64_t at = 1; at <= calls; ++at) {
      SCOPED_TRACE(at);
      Scene scene;
      FaultFileSystem fs(system_file_system());
      fs.plan(action, at, EINTR);
      ASSERT_NO_THROW(open_and_save(fs, scene.folder, 3));
      EXPECT_TRUE(fs.hit());
      scene.expect_sound(3);
    }
  }
}

TEST(CheckpointCrash, FaultsWhileReadingNeverGiveWrongBytes) {
  Scene scene;
  for (const int error : {EIO, EACCES, EMFILE, EINTR}) {
    for (std::int64_t at = 1;; ++at) {
      FaultFileSystem fs(system_file_system());
      fs.plan(Action::kError, at, error);
      try {
        const Checkpoint latest = CheckpointStore(fs, scene.folder, CheckpointAccess::kRead).latest();
        EXPECT_TRUE(is_sample(latest));
        EXPECT_EQ(latest.warning.empty(), latest.step == 2);
        EXPECT_TRUE(error != EINTR || latest.step == 2);
      } catch (const Error& failure) {
        EXPECT_NE(error, EINTR);
        EXPECT_EQ(failure.kind(), ErrorKind::kCheckpoint) << failure.what();
      }
      if (!fs.hit()) break;
    }
  }
}

TEST(CheckpointCrash, AKillAtEveryCallAndAgainDuringRecovery) {
  const std::int64_t calls = calls_of_a_save();
  for (std::int64_t at = 1; at <= calls; ++at) {
    for (std::int64_t again = 0; again <= 12; again += 3) {  // 0: no second kill
      SCOPED_TRACE(::testing::Message() << "kill at call " << at << ", then at call " << again);
      Scene scene;
      for (const std::int64_t kill : {at, again}) {
        FaultFileSystem fs(system_file_system());
        fs.plan(Action::kCrash, kill == 0 ? kNoFault : kill);
        try {
          if (kill == again) {
            CheckpointStore(fs, scene.folder, CheckpointAccess::kWrite);
          } else {
            open_and_save(fs, scene.folder, 3);
          }
        } catch (const Crash&) {
        }
      }
      scene.expect_sound(2);
    }
  }
}

// A child saves for ever and acknowledges each step on a pipe; the parent kills it at a random moment.
TEST(CheckpointCrash, SigkillOfARealProcessAtRandomTimes) {
  TemporaryFolder run;
  const std::string folder = run / "checkpoints";
  std::mt19937_64 random(7);
  std::int64_t newest = 0;
  // On a slow machine, or under a sanitizer, most die before their first checkpoint: then more of them.
  for (int round = 0; round < 60 || (newest <= 60 && round < 600); ++round) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    test::ChildProcess child([&] {
      ::close(ends[0]);
      CheckpointStore store(system_file_system(), folder, CheckpointAccess::kWrite);
      for (std::int64_t step = newest + 1;; ++step) {
        store.save(step, SampleCheckpoint(step).files());
        if (step % 3 == 0) store.save_best(step, SampleCheckpoint(step).files());
        if (::write(ends[1], &step, sizeof(step)) != sizeof(step)) return;
      }
    });
    ::close(ends[1]);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 6000));
    ASSERT_TRUE(child.kill()) << "the child ended by itself";
    for (std::int64_t step = 0; ::read(ends[0], &step, sizeof(step)) == sizeof(step);) newest = step;
    ::close(ends[0]);
    CheckpointStore store(system_file_system(), folder, CheckpointAccess::kRead);
    if (!std::filesystem::exists(folder) || store.steps().empty()) {
      EXPECT_EQ(newest, 0);
      continue;
    }
    EXPECT_EQ(half_folders(system_file_system(), folder), 0);
    const Checkpoint latest = store.latest();
    EXPECT_GE(latest.step, newest);
    EXPECT_LE(latest.step, newest + 1);
    EXPECT_TRUE(is_sample(latest));
    EXPECT_EQ(latest.warning, "");
    newest = latest.step;
  }
  EXPECT_GT(newest, 60);
}

// A reader beside a run that saves as fast as it can: pruned folders vanish under it, yet it always gets a
// whole one.
TEST(CheckpointCrash, ReadersBesideARunAlwaysFindAWholeCheckpoint) {
  Scene scene;
  test::ChildProcess child([&] {
    CheckpointStore store(system_file_system(), scene.folder, CheckpointAccess::kWrite);
    for (std::int64_t step = 3;; ++step) {
      store.save(step, SampleCheckpoint(step).files());
      store.save_best(step, SampleCheckpoint(step).files());
    }
  });
  CheckpointStore reader(system_file_system(), scene.folder, CheckpointAccess::kRead);
  std::int64_t last = 0, best = 0;
  for (int i = 0; i < 400; ++i) {
    const Checkpoint latest = reader.latest();
    ASSERT_TRUE(is_sample(latest));
    ASSERT_GE(latest.step, last - 1);  // the newest may have been pruned after the list was made
    last = std::max(last, latest.step);
    const Checkpoint now = reader.best();
    ASSERT_TRUE(is_sample(now));
    ASSERT_GE(now.step, best);
    best = now.step;
  }
  EXPECT_GT(last, 2);
  EXPECT_TRUE(child.kill()) << "the child ended by itself";
}

// The kernel itself cuts a write short and then refuses the rest, as a full disk does.
TEST(CheckpointCrash, ARealShortWriteThenARefusal) {
  Scene scene;
  test::ChildProcess child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {1000, 1000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(1);
    try {
      open_and_save(system_file_system(), scene.folder, 3);
    } catch (const Error& error) {
      ::_exit(error.exit_code());
    }
  });
  const int status = child.wait();
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ErrorKind::kOutput));
  EXPECT_EQ(leftovers(system_file_system(), scene.folder), 0);
  scene.expect_sound(2);
}

// --- power cuts
// ------------------------------------------------------------------------------------------------------

struct Findings {
  std::int64_t states = 0;
  std::int64_t lost = 0;     // an acknowledged checkpoint is gone or unusable
  std::int64_t garbage = 0;  // wrong bytes taken for a checkpoint
  std::int64_t half = 0;     // a folder with DONE that is not complete
};

// Takes the newest folder that has DONE and checks nothing: a reader without checksums.
Checkpoint latest_without_checksums(FileSystem& fs, const std::string& folder) {
  const auto steps = CheckpointStore(fs, folder, CheckpointAccess::kRead).steps();
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    char name[32];
    std::snprintf(name, sizeof(name), "step-%08lld", static_cast<long long>(*step));
    Checkpoint checkpoint{*step, join_path(folder, name), {}, {}};
    FileInfo info;
    if (!find_entry(fs, checkpoint.path + "/DONE", info, ErrorKind::kInput)) continue;
    for (const char* file : {"a.safetensors", "state.json"}) {
      if (!find_entry(fs, join_path(checkpoint.path, file), info, ErrorKind::kInput)) continue;
      checkpoint.files[file] = read_file(fs, join_path(checkpoint.path, file), 1 << 20, ErrorKind::kInput);
    }
    return checkpoint;
  }
  throw Error(ErrorKind::kCheckpoint, "none");
}

void judge(SimDisk& disk, const std::string& folder, std::int64_t acknowledged, bool checksums,
           Findings& findings) {
  ++findings.states;
  try {
    findings.half += half_folders(disk, folder) > 0 ? 1 : 0;
    CheckpointStore store(disk, folder, CheckpointAccess::kWrite);
    const Checkpoint latest = checksums ? store.latest() : latest_without_checksums(disk, folder);
    const auto a = latest.files.find("a.safetensors"), b = latest.files.find("state.json");
    const bool whole = a != latest.files.end() && b != latest.files.end() && is_sample(latest);
    findings.garbage += whole ? 0 : 1;
    findings.lost += latest.step < acknowledged ? 1 : 0;
  } catch (const Error&) {
    findings.lost += acknowledged > 0 ? 1 : 0;
  }
}

using Save = std::function<void(SimDisk&, const std::string& folder, std::int64_t step)>;

// Saves steps 1 to 4 and cuts the power after every call.
Findings cut_power_everywhere(const Save& save, bool checksums, std::size_t max_states,
                              const std::function<void(SimDisk&)>& plant = {}) {
  SimDisk disk;
  const std::string folder = "/checkpoints";
  ensure_folder(disk, folder);
  if (plant) plant(disk);
  Findings findings;
  std::int64_t acknowledged = 0;
  std::mt19937_64 random(11);
  disk.after_call = [&] {
    disk.for_each_crash(max_states, random,
                        [&](SimDisk& after) { judge(after, folder, acknowledged, checksums, findings); });
  };
  for (std::int64_t step = 1; step <= 4; ++step) {
    save(disk, folder, step);
    acknowledged = step;
    disk.after_call();
  }
  return findings;
}

void product_save(SimDisk& disk, const std::string& folder, std::int64_t step) {
  CheckpointStore store(disk, folder, CheckpointAccess::kWrite);
  store.save(step, SampleCheckpoint(step).files());
}

// The four files of a checkpoint as the product writes them, for protocols that get the order wrong.
std::vector<std::pair<std::string, std::vector<std::byte>>> finished_files(std::int64_t step) {
  SimDisk scratch;
  CheckpointStore store(scratch, "/c", CheckpointAccess::kWrite);
  store.save(step, SampleCheckpoint(step).files());
  std::vector<std::pair<std::string, std::vector<std::byte>>> files;
  for (const char* name : {"a.safetensors", "state.json", "manifest.json", "DONE"}) {
    files.emplace_back(
        name, read_file(scratch, join_path(store.load(step).path, name), 1 << 20, ErrorKind::kInput));
  }
  return files;
}

std::string step_folder(const std::string& folder, std::int64_t step) {
  return join_path(folder, "step-0000000" + std::to_string(step));
}

TEST(PowerCut, NoAcknowledgedCheckpointIsEverLost) {
  const Findings findings = cut_power_everywhere(product_save, true, 4096);
  EXPECT_GT(findings.states, 500);
  EXPECT_EQ(findings.lost, 0);
  EXPECT_EQ(findings.garbage, 0);
  EXPECT_EQ(findings.half, 0);
  RecordProperty("crash_states", static_cast<int>(findings.states));
}

TEST(PowerCut, BestIsOldOrNewAndWhole) {
  SimDisk disk;
  ensure_folder(disk, "/c");
  std::mt19937_64 random(3);
  std::int64_t acknowledged = 0, states = 0;
  disk.after_call = [&] {
    disk.for_each_crash(512, random, [&](SimDisk& after) {
      ++states;
      CheckpointStore store(after, "/c", CheckpointAccess::kWrite);
      if (acknowledged == 0) return;
      const Checkpoint best = store.best();
      ASSERT_GE(best.step, acknowledged);
      ASSERT_TRUE(is_sample(best));
    });
  };
  CheckpointStore store(disk, "/c", CheckpointAccess::kWrite);
  for (std::int64_t step = 1; step <= 3; ++step) {
    store.save_best(step, SampleCheckpoint(step).files());
    acknowledged = step;
  }
  EXPECT_GT(states, 300);
}

// Negative controls: each planted bug must be found, or the model proves nothing.

TEST(PowerCut, FindsAMissingSyncOfTheFolder) {
  const auto findings =
      cut_power_everywhere(product_save, true, 64, [](SimDisk& disk) { disk.sync_folders = false; });
  EXPECT_GT(findings.lost, 0);
}

TEST(PowerCut, FindsAMissingSyncOfTheFiles) {
  const auto findings =
      cut_power_everywhere(product_save, true, 64, [](SimDisk& disk) { disk.sync_files = false; });
  EXPECT_GT(findings.lost, 0);
  EXPECT_EQ(findings.garbage, 0);  // checksums turn garbage into a loss that is noticed
}

TEST(PowerCut, FindsMissingChecksums) {
  const auto findings =
      cut_power_everywhere(product_save, false, 64, [](SimDisk& disk) { disk.sync_files = false; });
  EXPECT_GT(findings.garbage, 0);
}

TEST(PowerCut, FindsDoneWrittenBeforeTheData) {
  const auto findings = cut_power_everywhere(
      [](SimDisk& disk, const std::string& folder, std::int64_t step) {
        const auto files = finished_files(step);
        const std::string path = step_folder(folder, step);
        make_new_folder(disk, path);
        for (auto file = files.rbegin(); file != files.rend(); ++file) {
          write_new_file(disk, join_path(path, file->first), file->second);
        }
        sync_folder(disk, path);
        sync_folder(disk, folder);
      },
      true, 64);
  EXPECT_GT(findings.half, 0);
}

TEST(PowerCut, FindsTheOldOneRemovedBeforeTheNewOneIsThere) {
  const auto findings = cut_power_everywhere(
      [](SimDisk& disk, const std::string& folder, std::int64_t step) {
        remove_tree(disk, step_folder(folder, step - 1));
        const auto files = finished_files(step);
        make_new_folder(disk, join_path(folder, "new"));
        for (const auto& [name, bytes] : files) write_new_file(disk, join_path(folder, "new/" + name), bytes);
        sync_folder(disk, join_path(folder, "new"));
        rename_entry(disk, join_path(folder, "new"), step_folder(folder, step));
        sync_folder(disk, folder);
      },
      true, 64);
  EXPECT_GT(findings.lost, 0);
}

TEST(PowerCut, FindsAPruneThatEmptiesAFolderUnderItsFinalName) {
  const auto findings = cut_power_everywhere(
      [](SimDisk& disk, const std::string& folder, std::int64_t step) {
        product_save(disk, folder, step);
        remove_tree(disk, step_folder(folder, step - 1));
      },
      true, 64);
  EXPECT_GT(findings.half, 0);
}

}  // namespace
}  // namespace cohort
