// `cohort train` as a user runs it: the run folder, stopping and going on, refusals. Tiny networks and
// images.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/run_cohort.h"

namespace cohort::tools {
namespace {

using nlohmann::json;
using test::CohortProcess;
using test::read_text;
using test::run_cohort;
using test::RunResult;
using test::TemporaryFolder;
using testing::HasSubstr;
using testing::Not;

// Two ResNet-8 on 96 images of 8x8: 5 steps an epoch (the last batch is short), milliseconds a step.
std::vector<std::string> tiny(std::vector<std::string> more) {
  std::vector<std::string> words = {"train",
                                    "--net",
                                    "resnet8",
                                    "--net",
                                    "resnet8:lr=0.05",
                                    "--epochs",
                                    "2",
                                    "-s",
                                    "data.size=8",
                                    "-s",
                                    "data.train_images=96",
                                    "-s",
                                    "data.test_images=20",
                                    "--batch-size",
                                    "20",
                                    "--log-every",
                                    "1",
                                    "--threads",
                                    "2"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

std::set<std::string> names_in(const std::filesystem::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}

std::vector<json> records(const std::filesystem::path& folder) {
  std::vector<json> list;
  std::ifstream file(folder / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) list.push_back(json::parse(line));
  return list;
}

// Without what a clock decides.
std::vector<json> timeless(std::vector<json> list) {
  std::vector<json> kept;
  for (json& record : list) {
    if (record["kind"] != "step" && record["kind"] != "epoch") continue;
    record.erase("t");
    record.erase("img_s");
    record.erase("seconds");
    kept.push_back(record);
  }
  return kept;
}

void expect_same_weights(const std::filesystem::path& a, const std::filesystem::path& b) {
  for (const char* name : {"a.safetensors", "b.safetensors", "optim.safetensors", "state.json"}) {
    const std::string left = read_text(a / "checkpoints/last" / name);
    EXPECT_FALSE(left.empty()) << name;
    EXPECT_TRUE(left == read_text(b / "checkpoints/last" / name)) << name << " differs";
  }
}

TEST(Train, AFastDevRunWritesNothing) {
  const TemporaryFolder folder;
  const RunResult result =
      run_cohort({"train", "--fast-dev-run=2", "--net", "resnet8", "--net", "resnet8"}, folder.path());
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("resnet8"));
  EXPECT_THAT(result.err, HasSubstr("epoch 1/1"));
  EXPECT_THAT(result.err, Not(HasSubstr("\x1b")));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Train, ADryRunAndPrintedSettingsWriteNothing) {
  const TemporaryFolder folder;
  const RunResult dry = run_cohort(tiny({"--dry-run"}), folder.path());
  EXPECT_EQ(dry.code, 0) << dry.err;
  EXPECT_THAT(dry.err, HasSubstr("MACs/img"));
  EXPECT_THAT(dry.err, HasSubstr("CE(z_i, y)"));
  EXPECT_THAT(dry.err, HasSubstr("memory of the engine, batch 20: "));
  EXPECT_THAT(dry.err, HasSubstr("gradients  optimiser"));
  EXPECT_EQ(run_cohort(tiny({"--print-config"}), folder.path()).code, 0);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

// Without held-out images the epochs are chosen by the test set: everything that prints says so.
TEST(Train, SelectionOnTheTestSetIsSaid) {
  const TemporaryFolder folder;
  const RunResult on_test = run_cohort(tiny({"--out", "t", "--val-fraction", "0"}), folder.path());
  ASSERT_EQ(on_test.code, 0) << on_test.err;
  EXPECT_THAT(on_test.err, HasSubstr("val none (best epochs are selected on test)"));
  EXPECT_THAT(on_test.out, HasSubstr("test best (selected on test)"));
  EXPECT_THAT(on_test.out, Not(HasSubstr("val")));
  EXPECT_EQ(json::parse(read_text(folder / "t/summary.json"))["selected_on"], "test");
  const RunResult on_val = run_cohort(tiny({"--out", "v"}), folder.path());
  EXPECT_THAT(on_val.out, HasSubstr("val best"));
  EXPECT_THAT(on_val.out, Not(HasSubstr("selected on")));
  EXPECT_EQ(json::parse(read_text(folder / "v/summary.json"))["selected_on"], "val");
}

TEST(Train, TheRunFolderIsComplete) {
  const TemporaryFolder folder;
  const RunResult result = run_cohort(tiny({"--out", "runs/my run", "--json"}), folder.path());
  ASSERT_EQ(result.code, 0) << result.err;
  const std::filesystem::path run = folder / "runs/my run";
  EXPECT_EQ(names_in(run), (std::set<std::string>{".lock", "checkpoints", "command.txt", "config.toml",
                                                  "env.json", "log.txt", "metrics.csv", "metrics.jsonl",
                                                  "report.html", "split.json", "summary.json"}));
  const json summary = json::parse(result.out);
  EXPECT_EQ(summary, json::parse(read_text(run / "summary.json")));
  EXPECT_EQ(summary["status"], "finished");
  EXPECT_EQ(summary["steps"], 10);
  ASSERT_EQ(summary["nets"].size(), 3u);
  EXPECT_EQ(summary["nets"][2]["id"], "ens");
  EXPECT_GE(summary["nets"][0]["test_last"], 0);

  // Ten steps and two epochs, for each network; the epochs for the ensemble too.
  int steps = 0;
  int epochs = 0;
  for (const json& record : records(run)) {
    EXPECT_EQ(record["v"], 1);
    steps += record["kind"] == "step" ? 1 : 0;
    epochs += record["kind"] == "epoch" ? 1 : 0;
  }
  EXPECT_EQ(steps, 20);
  EXPECT_EQ(epochs, 6);
  const std::string csv = read_text(run / "metrics.csv");
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 7);
  const std::string log = read_text(run / "log.txt");
  EXPECT_THAT(log, HasSubstr("epoch 2/2"));
  EXPECT_THAT(log, Not(HasSubstr("\x1b")));
  EXPECT_THAT(read_text(run / "command.txt"), HasSubstr("--out 'runs/my run'"));
  EXPECT_THAT(read_text(run / "report.html"), HasSubstr("<svg"));
  const json split = json::parse(read_text(run / "split.json"));
  EXPECT_EQ(split["held_out"].size(), 10u);

  // The resolved file gives the same run back.
  const RunResult again =
      run_cohort({"train", "-c", "runs/my run/config.toml", "--out", "again"}, folder.path());
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(read_text(folder / "again/config.toml"), read_text(run / "config.toml"));
  EXPECT_EQ(timeless(records(folder / "again")), timeless(records(run)));
  expect_same_weights(run, folder / "again");
}

TEST(Train, StoppedAndResumedIsTheSameRun) {
  const TemporaryFolder folder;
  ASSERT_EQ(run_cohort(tiny({"--out", "whole"}), folder.path()).code, 0);
  for (const char* stop : {"3", "5", "8"}) {  // inside the first epoch, at its end, inside the second
    const std::string name = std::string("stopped") + stop;
    ASSERT_EQ(run_cohort(tiny({"--out", name, "--max-steps", stop}), folder.path()).code, 0);
    const RunResult resumed =
        run_cohort({"train", "--resume", name, "--max-steps", "0", "--threads", "1"}, folder.path());
    ASSERT_EQ(resumed.code, 0) << resumed.err;
    expect_same_weights(folder / "whole", folder / name);
    EXPECT_EQ(timeless(records(folder / name)), timeless(records(folder / "whole"))) << stop;
    EXPECT_THAT(read_text(folder / name / "log.txt"),
                HasSubstr("train.max_steps " + std::string(stop) + " -> 0"));
    EXPECT_EQ(read_text(folder / name / "checkpoints/best/a.safetensors"),
              read_text(folder / "whole/checkpoints/best/a.safetensors"));
  }
}

TEST(Train, SignalsSaveAndStop) {
  const TemporaryFolder folder;
  ASSERT_EQ(run_cohort(tiny({"--out", "whole", "--epochs", "60", "--save-every", "0"}), folder.path()).code,
            0);
  for (const auto& [number, code] : {std::pair{SIGTERM, 75}, std::pair{SIGINT, 130}}) {
    const std::string name = "run" + std::to_string(number);
    CohortProcess process(tiny({"--out", name, "--epochs", "60", "--save-every", "0"}), folder.path());
    for (int i = 0; i < 2000 && process.err_so_far().find("epoch 2/") == std::string::npos; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    process.signal(number);
    const RunResult result = process.wait();
    ASSERT_EQ(result.code, code) << result.err;
    EXPECT_THAT(result.err, HasSubstr("go on with: cohort train --resume " + name));
    EXPECT_EQ(json::parse(read_text(folder / name / "summary.json"))["status"], "stopped");
    const RunResult resumed = run_cohort({"train", "--resume", name + "/"}, folder.path());
    ASSERT_EQ(resumed.code, 0) << resumed.err;
    expect_same_weights(folder / "whole", folder / name);
    EXPECT_EQ(timeless(records(folder / name)), timeless(records(folder / "whole")));
  }
}

// A killed process loses what came after its last checkpoint, and the resumed run repeats it.
TEST(Train, AKilledRunGoesOn) {
  const TemporaryFolder folder;
  ASSERT_EQ(run_cohort(tiny({"--out", "whole", "--epochs", "12"}), folder.path()).code, 0);
  CohortProcess process(tiny({"--out", "killed", "--epochs", "12"}), folder.path());
  for (int i = 0; i < 2000 && process.err_so_far().find("epoch 2/") == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  process.signal(SIGKILL);
  EXPECT_EQ(process.wait().code, 128 + SIGKILL);
  const RunResult resumed = run_cohort({"train", "--resume", "killed"}, folder.path());
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  expect_same_weights(folder / "whole", folder / "killed");
  EXPECT_EQ(timeless(records(folder / "killed")), timeless(records(folder / "whole")));
}

bool has_checkpoint(const std::filesystem::path& run) {
  if (!std::filesystem::exists(run / "checkpoints")) return false;
  for (const auto& entry : std::filesystem::directory_iterator(run / "checkpoints")) {
    const bool temporary = entry.path().filename().string().find("tmp") != std::string::npos;
    if (!temporary && std::filesystem::exists(entry.path() / "DONE")) return true;
  }
  return false;
}

// Killed after random times, the resumed runs as well, until one reaches the end: the result is that of the
// run that nobody touched. COHORT_LONG=1 takes 60 kills instead of 8.
TEST(Train, KilledAgainAndAgainAtRandomMoments) {
  const bool full_length = std::getenv("COHORT_LONG") != nullptr;
  const int kills = full_length ? 60 : 8;
  const TemporaryFolder folder;
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(run_cohort(tiny({"--out", "whole", "--epochs", "20"}), folder.path()).code, 0);
  const double whole = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::mt19937 random(20261121);
  int done = 0;
  for (int run = 0; done < kills; ++run) {
    ASSERT_LT(run, 3 * kills) << "the runs end before they are killed";
    const std::string name = "r" + std::to_string(run);
    std::vector<std::string> words = tiny({"--out", name, "--epochs", "20"});
    for (int tries = 0; tries < 4; ++tries) {  // up to four kills in one run, some while it resumes
      const double wait = std::uniform_real_distribution<double>(0, tries == 0 ? whole : whole / 3)(random);
      {
        CohortProcess process(words, folder.path());
        std::this_thread::sleep_for(std::chrono::duration<double>(wait));
        process.signal(SIGKILL);
        const RunResult result = process.wait();
        ASSERT_TRUE(result.code == 128 + SIGKILL || result.code == 0) << result.err;
        done += result.code == 0 ? 0 : 1;
      }
      if (words[1] == "--resume" || has_checkpoint(folder / name)) {
        words = {"train", "--resume", name, "--threads", std::to_string(1 + tries % 3)};
      } else {
        std::filesystem::remove_all(folder / name);  // killed before its first checkpoint: nothing to keep
      }
    }
    const RunResult last = run_cohort(words, folder.path());
    ASSERT_EQ(last.code, 0) << name << "\n" << last.err;
    expect_same_weights(folder / "whole", folder / name);
    EXPECT_EQ(timeless(records(folder / name)), timeless(records(folder / "whole"))) << name;
    std::filesystem::remove_all(folder / name);
  }
}

TEST(Train, ATimeLimitSavesAndExitsWith75) {
  const TemporaryFolder folder;
  const RunResult result = run_cohort(
      tiny({"--out", "r", "--epochs", "100000", "--time-limit", "0.5", "--save-every", "0"}), folder.path());
  EXPECT_EQ(result.code, 75) << result.err;
  EXPECT_TRUE(std::filesystem::exists(folder / "r/checkpoints/last/DONE"));
}

TEST(Train, OnlySomeSettingsMayChangeOnResume) {
  const TemporaryFolder folder;
  ASSERT_EQ(run_cohort(tiny({"--out", "r"}), folder.path()).code, 0);
  const std::string before = read_text(folder / "r/config.toml");
  for (const std::vector<std::string>& change :
       std::vector<std::vector<std::string>>{{"--lr", "0.2"},
                                             {"--seed", "1"},
                                             {"--method", "independent"},
                                             {"--batch-size", "21"},
                                             {"-s", "distill.dml.lambda=2"},
                                             {"--val-fraction", "0.2"},
                                             {"--precision", "bf16"}}) {
    std::vector<std::string> words = {"train", "--resume", "r"};
    words.insert(words.end(), change.begin(), change.end());
    const RunResult result = run_cohort(words, folder.path());
    EXPECT_EQ(result.code, 9) << change[0] << result.err;
    EXPECT_THAT(result.err, HasSubstr("other settings"));
    EXPECT_THAT(result.err, HasSubstr(" -> "));
    EXPECT_EQ(read_text(folder / "r/config.toml"), before);
  }
  const RunResult longer = run_cohort({"train", "--resume", "r", "--epochs", "3"}, folder.path());
  EXPECT_EQ(longer.code, 0) << longer.err;
  EXPECT_THAT(longer.err, HasSubstr("train.epochs 2 -> 3"));
  EXPECT_EQ(json::parse(read_text(folder / "r/summary.json"))["steps"], 15);
  const RunResult finished = run_cohort({"train", "--resume", "r"}, folder.path());
  EXPECT_EQ(finished.code, 0) << "nothing left to do is no error" << finished.err;
  EXPECT_EQ(json::parse(read_text(folder / "r/summary.json"))["steps"], 15);
}

TEST(Train, ABusyFolderIsRefused) {
  const TemporaryFolder folder;
  CohortProcess process(tiny({"--out", "r", "--epochs", "100000"}), folder.path());
  for (int i = 0; i < 2000 && process.err_so_far().find("epoch 2/") == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const RunResult second = run_cohort({"train", "--resume", "r"}, folder.path());
  EXPECT_EQ(second.code, 8) << second.err;
  EXPECT_EQ(run_cohort(tiny({"--out", "r", "--overwrite"}), folder.path()).code, 8);
  process.signal(SIGTERM);
  EXPECT_EQ(process.wait().code, 75);
}

TEST(Train, NothingIsOverwrittenWithoutAWord) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "mine");
  std::ofstream(folder / "mine/thesis.tex") << "years";
  EXPECT_EQ(run_cohort(tiny({"--out", "mine"}), folder.path()).code, 2);
  const RunResult forced = run_cohort(tiny({"--out", "mine", "--overwrite"}), folder.path());
  EXPECT_EQ(forced.code, 2);
  EXPECT_THAT(forced.err, HasSubstr("is no run folder"));
  EXPECT_EQ(names_in(folder / "mine"), std::set<std::string>{"thesis.tex"});
  ASSERT_EQ(run_cohort(tiny({"--out", "r", "--epochs", "1"}), folder.path()).code, 0);
  EXPECT_EQ(run_cohort(tiny({"--out", "r", "--epochs", "1"}), folder.path()).code, 2);
  EXPECT_EQ(run_cohort(tiny({"--out", "r", "--overwrite"}), folder.path()).code, 0);
  EXPECT_EQ(json::parse(read_text(folder / "r/summary.json"))["epochs"], 2);
}

TEST(Train, NumbersThatExplodeEndTheRunWith7) {
  const TemporaryFolder folder;
  const RunResult result = run_cohort(
      tiny({"--out", "r", "--epochs", "50", "--lr", "100", "--momentum", "0.99", "--schedule", "constant"}),
      folder.path());
  EXPECT_EQ(result.code, 7) << result.err;
  EXPECT_THAT(result.err, HasSubstr("no longer finite at step"));
  EXPECT_EQ(json::parse(read_text(folder / "r/summary.json"))["status"], "failed");
}

TEST(Train, ProgressAsJsonLines) {
  const TemporaryFolder folder;
  const RunResult result = run_cohort(tiny({"--out", "r", "--progress", "json"}), folder.path());
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.err, read_text(folder / "r/metrics.jsonl"));
  EXPECT_EQ(run_cohort(tiny({"--out", "q", "--progress", "none"}), folder.path()).err, "");
}

// Warm start from another run's weights, and a frozen teacher.
TEST(Train, WeightsOfAnotherRun) {
  const TemporaryFolder folder;
  ASSERT_EQ(run_cohort(tiny({"--out", "r", "--epochs", "1"}), folder.path()).code, 0);
  const std::string weights = "r/checkpoints/best/a.safetensors";
  const RunResult kd =
      run_cohort(tiny({"--out", "kd", "--method", "kd", "--init", "a=" + weights}), folder.path());
  ASSERT_EQ(kd.code, 0) << kd.err;
  EXPECT_THAT(kd.err, HasSubstr("frozen"));
  const RunResult same =
      run_cohort(tiny({"--out", "twins", "--init", "a=" + weights, "--init", "b=" + weights}), folder.path());
  EXPECT_EQ(same.code, 0) << same.err;
  EXPECT_THAT(same.err, HasSubstr("start from the same weights"));
  const RunResult missing = run_cohort(tiny({"--out", "x", "--init", "a=none.safetensors"}), folder.path());
  EXPECT_EQ(missing.code, 3) << missing.err;
  const RunResult other =
      run_cohort({"train", "--net", "resnet14", "--net", "resnet8", "--out", "x", "--init", "a=" + weights,
                  "-s", "data.size=8", "-s", "data.train_images=96"},
                 folder.path());
  EXPECT_EQ(other.code, 9) << other.err;
  EXPECT_FALSE(std::filesystem::exists(folder / "x"));
}

TEST(Train, DamagedCheckpoints) {
  const TemporaryFolder folder;
  ASSERT_EQ(run_cohort(tiny({"--out", "whole"}), folder.path()).code, 0);
  ASSERT_EQ(run_cohort(tiny({"--out", "r"}), folder.path()).code, 0);
  std::fstream file(folder / "r/checkpoints/last/a.safetensors",
                    std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(5000);
  file.put('x').put('y').put('z');
  file.close();
  const RunResult resumed = run_cohort({"train", "--resume", "r"}, folder.path());
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_THAT(resumed.err, HasSubstr("warning"));
  expect_same_weights(folder / "whole", folder / "r");
}

// Every method of the registry, two and three networks, f32 and bf16, through the whole program.
TEST(Train, EveryMethod) {
  const TemporaryFolder folder;
  ASSERT_EQ(run_cohort(tiny({"--out", "teacher", "--epochs", "1"}), folder.path()).code, 0);
  const json methods = json::parse(run_cohort({"list", "methods", "--json"}, folder.path()).out);
  ASSERT_GE(methods.size(), 5u);
  for (const json& method : methods) {
    const std::string name = method["name"];
    for (const bool three : {false, true}) {
      const std::string run = name + (three ? "3" : "2");
      std::vector<std::string> words = tiny(
          {"--method", name, "--out", run, "--precision", three ? "bf16" : "f32", "-s", "data.augment=none"});
      const bool frozen_teacher =
          std::set<std::string>{"kd", "dkd", "fitnet", "shake", "diswot", "norm"}.count(name) > 0;
      if (frozen_teacher) words.insert(words.end(), {"--init", "a=teacher/checkpoints/last/a.safetensors"});
      if (three && name == "afid") continue;                  // of two networks
      const bool branches = name == "one" || name == "clnn";  // all see the same images
      if (three) words.insert(words.end(), {"--net", "resnet8"});
      if (three && !branches) words.insert(words.end(), {"-s", "distill.icl=true"});
      const RunResult result = run_cohort(words, folder.path());
      ASSERT_EQ(result.code, 0) << run << "\n" << result.err;
      const json summary = json::parse(read_text(folder / run / "summary.json"));
      EXPECT_EQ(summary["nets"].size(), three ? 4u : 3u) << run;
      if (!frozen_teacher) continue;
      EXPECT_EQ(read_text(folder / run / "checkpoints/last/a.safetensors").size(),
                read_text(folder / "teacher/checkpoints/last/a.safetensors").size());
      EXPECT_EQ(summary["nets"][0]["test_last"], summary["nets"][0]["test_at_best"])
          << "a frozen teacher does not move";
    }
  }
}

TEST(Train, AwkwardFolderNames) {
  const TemporaryFolder folder;
  for (const std::string& name : {std::string("sp ace"), std::string("caf\xC3\xA9"), std::string("new\nline"),
                                  std::string("-dash"), std::string(255, 'n'), std::string("a/b/c/d"),
                                  std::string("quote\"'"), std::string("x/"), std::string("\xFF\xFE")}) {
    std::vector<std::string> words = tiny({"--epochs", "1", "--out=" + name});
    const RunResult result = run_cohort(words, folder.path());
    EXPECT_EQ(result.code, 0) << name << result.err;
    EXPECT_TRUE(std::filesystem::exists(folder / name / "summary.json")) << name;
    EXPECT_EQ(run_cohort({"train", "--resume=" + name}, folder.path()).code, 0) << name;
    EXPECT_EQ(run_cohort({"inspect", "run", "./" + name}, folder.path()).code, 0) << name;
  }
  std::filesystem::create_directory(folder / "locked");
  std::ofstream(folder / "file") << "x";
  EXPECT_EQ(run_cohort(tiny({"--out", "file"}), folder.path()).code, 2);
  EXPECT_EQ(run_cohort(tiny({"--out", "file/below"}), folder.path()).code, 4);
}

// A reader that goes away, a full disk behind standard output: the run goes on, its files are complete.
TEST(Train, StandardOutputThatFails) {
  const TemporaryFolder folder;
  const std::string command =
      "cd " + folder.path().string() + " && " + COHORT_BINARY +
      " train --fast-dev-run=2 --net resnet8 --net resnet8 -o piped 2>&1 | head -1 >/dev/null";
  EXPECT_EQ(system(command.c_str()), 0);
  for (int i = 0; i < 1000 && !std::filesystem::exists(folder / "piped/report.html"); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(json::parse(read_text(folder / "piped/summary.json"))["status"], "finished");
  if (!std::filesystem::exists("/dev/full")) return;
  const RunResult full = CohortProcess(tiny({"--out", "full"}), folder.path(), {}, "/dev/full").wait();
  EXPECT_EQ(full.code, 4);
  EXPECT_THAT(full.err, HasSubstr("cannot write to standard output"));
  EXPECT_EQ(json::parse(read_text(folder / "full/summary.json"))["status"], "finished");
}

// A grid of methods and seeds: one command, given again after a stop.
TEST(Train, CompareTrainsWhatIsMissing) {
  const TemporaryFolder folder;
  std::vector<std::string> words = tiny({"--methods", "independent,dml", "--seeds", "2", "--out", "grid/"});
  words[0] = "compare";
  const RunResult first = run_cohort(words, folder.path());
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_EQ(names_in(folder / "grid"),
            (std::set<std::string>{"dml-s0", "dml-s1", "independent-s0", "independent-s1"}));
  EXPECT_THAT(first.out, HasSubstr("to independent"));
  EXPECT_THAT(first.out, HasSubstr("±"));

  // Cut one cell back to its middle and remove another: only these two are trained.
  const std::string kept = read_text(folder / "grid/independent-s0/log.txt");
  std::filesystem::remove_all(folder / "grid/independent-s1");
  std::filesystem::remove_all(folder / "grid/dml-s1");
  words.push_back("--json");
  std::vector<std::string> stopped = tiny({"--out", "grid/dml-s1", "--seed", "1", "--max-steps", "7"});
  ASSERT_EQ(run_cohort(stopped, folder.path()).code, 0);
  const RunResult second = run_cohort(words, folder.path());
  ASSERT_EQ(second.code, 0) << second.err;
  EXPECT_THAT(second.err, HasSubstr("resumed at step 7"));
  EXPECT_EQ(read_text(folder / "grid/independent-s0/log.txt"), kept);
  words.pop_back();
  const RunResult third = run_cohort(words, folder.path());
  EXPECT_EQ(third.err, "") << "nothing left to train";
  const auto without_times = [](std::string table) {
    std::string out;
    for (std::size_t begin = 0; begin < table.size();) {
      const std::size_t end = table.find('\n', begin);
      const std::string line = table.substr(begin, end - begin);
      out += line.substr(0, line.find_last_of(' ')) + "\n";
      begin = end + 1;
    }
    return out;
  };
  EXPECT_EQ(without_times(third.out), without_times(first.out)) << "the same bits, resumed or not";

  words.insert(words.end(), {"--lr", "0.2"});
  EXPECT_EQ(run_cohort(words, folder.path()).code, 9);
  EXPECT_EQ(run_cohort({"compare", "--methods", "dml,dlm", "--out", "x"}, folder.path()).code, 2);
  EXPECT_EQ(run_cohort({"compare", "--methods", "dml"}, folder.path()).code, 2);
  EXPECT_EQ(run_cohort({"compare", "--methods", "dml", "--out", "x", "--seeds", "0"}, folder.path()).code, 2);
  EXPECT_EQ(run_cohort({"compare"}, folder.path()).code, 2);
}

// The second Ctrl-C does not wait for the step to end.
TEST(Train, TheSecondInterruptEndsAtOnce) {
  const TemporaryFolder folder;
  CohortProcess process({"train", "--net", "wrn_40_2", "--net", "wrn_40_2", "--batch-size", "512", "-s",
                         "data.train_images=1024", "-s", "data.test_images=16", "--out", "r"},
                        folder.path());
  for (int i = 0; i < 4000 && process.err_so_far().find("wrn_40_2") == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(200));  // into the first step, which takes seconds
  process.signal(SIGINT);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const auto begin = std::chrono::steady_clock::now();
  process.signal(SIGINT);
  EXPECT_EQ(process.wait().code, 130);
  // ThreadSanitizer waits a second for other threads when a process ends.
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), 2.0);
}

}  // namespace
}  // namespace cohort::tools
