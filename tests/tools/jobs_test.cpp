// Several cohorts at once: the same bits as one after the other, stopping and going on, failures that stay
// where they are, and what does not fit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "tests/support/run_cohort.h"
#include "tools/job_board.h"
#include "tools/memory_fit.h"

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

std::vector<std::string> tiny(const std::string& out, std::vector<std::string> more) {
  std::vector<std::string> words = {"compare",
                                    "--methods",
                                    "independent,dml",
                                    "--seeds",
                                    "2",
                                    "--net",
                                    "resnet8",
                                    "--net",
                                    "resnet8",
                                    "-s",
                                    "data.size=8",
                                    "-s",
                                    "data.train_images=60",
                                    "-s",
                                    "data.test_images=20",
                                    "--batch-size",
                                    "20",
                                    "--epochs",
                                    "2",
                                    "--threads",
                                    "2",
                                    "--out",
                                    out};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

const std::vector<std::string> kCells = {"independent-s0", "dml-s0", "independent-s1", "dml-s1"};

// Without what a clock decides.
json timeless(const std::string& text) {
  json rows = json::parse(text);
  for (json& row : rows) row.erase("seconds");
  return rows;
}

void expect_same_runs(const std::filesystem::path& a, const std::filesystem::path& b) {
  for (const std::string& cell : kCells) {
    for (const char* name : {"a.safetensors", "b.safetensors", "optim.safetensors", "state.json"}) {
      const std::string left = read_text(a / cell / "checkpoints/last" / name);
      EXPECT_FALSE(left.empty()) << cell << " " << name;
      EXPECT_TRUE(left == read_text(b / cell / "checkpoints/last" / name)) << cell << " " << name;
    }
    EXPECT_EQ(read_text(a / cell / "config.toml"), read_text(b / cell / "config.toml"));
  }
}

std::string status_of(const std::filesystem::path& run) {
  const json summary = json::parse(read_text(run / "summary.json"), nullptr, false);
  return summary.is_object() ? summary.value("status", "") : "none";
}

template <class Condition>
bool wait_until(Condition condition) {
  for (int i = 0; i < 6000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

TEST(Jobs, AtOnceIsOneAfterTheOther) {
  const TemporaryFolder folder;
  const RunResult one = run_cohort(tiny("one", {"--json"}), folder.path());
  ASSERT_EQ(one.code, 0) << one.err;
  const RunResult four = run_cohort(tiny("four", {"--json", "--jobs", "4"}), folder.path());
  ASSERT_EQ(four.code, 0) << four.err;
  EXPECT_EQ(timeless(four.out), timeless(one.out));
  expect_same_runs(folder / "one", folder / "four");
  for (const std::string& cell : kCells) {
    EXPECT_THAT(four.err, HasSubstr(cell + "  starts ("));
    EXPECT_THAT(four.err, HasSubstr(cell + "  epoch 2/2  a val "));
    EXPECT_THAT(four.err, HasSubstr(cell + "  done in "));
  }
  EXPECT_THAT(four.err, Not(HasSubstr("\x1b")));
  EXPECT_THAT(four.err, Not(HasSubstr("{"))) << "events are for the parent";

  const auto written = std::filesystem::last_write_time(folder / "four/dml-s1/metrics.jsonl");
  const RunResult again = run_cohort(tiny("four", {"--json", "--jobs", "3"}), folder.path());
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(again.out, four.out) << "nothing is trained twice";
  EXPECT_THAT(again.err, Not(HasSubstr("starts")));
  EXPECT_EQ(std::filesystem::last_write_time(folder / "four/dml-s1/metrics.jsonl"), written);
}

TEST(Jobs, EventsNameTheirRun) {
  const TemporaryFolder folder;
  const RunResult result =
      run_cohort(tiny("r", {"--jobs", "2", "--progress", "json", "--json"}), folder.path());
  ASSERT_EQ(result.code, 0) << result.err;
  std::map<std::string, int> epochs;
  std::istringstream lines(result.err);
  for (std::string line; std::getline(lines, line);) {
    const json event = json::parse(line, nullptr, false);
    ASSERT_TRUE(event.is_object()) << line;
    if (event["kind"] == "epoch") ++epochs[event["run"]];
  }
  for (const std::string& cell : kCells) EXPECT_EQ(epochs["r/" + cell], 6) << cell;
}

TEST(Jobs, SignalsStopAllAndTheSameCommandGoesOn) {
  const TemporaryFolder folder;
  const std::vector<std::string> length = {"--epochs", "24", "--save-every", "0"};
  ASSERT_EQ(run_cohort(tiny("whole", length), folder.path()).code, 0);
  for (const auto& [number, code] : {std::pair{SIGINT, 130}, std::pair{SIGTERM, 75}}) {
    const std::string out = "stopped" + std::to_string(number);
    std::vector<std::string> more = length;
    more.insert(more.end(), {"--jobs", "2"});
    CohortProcess process(tiny(out, more), folder.path());
    ASSERT_TRUE(wait_until([&] {
      const std::string err = process.err_so_far();
      return err.find("independent-s0  epoch 1/") != std::string::npos &&
             err.find("dml-s0  epoch 1/") != std::string::npos;
    }));
    process.signal(number);
    const RunResult result = process.wait();
    ASSERT_EQ(result.code, code) << result.err;
    EXPECT_THAT(result.err, HasSubstr("the same command goes on"));
    EXPECT_EQ(status_of(folder / out / "independent-s0"), "stopped");
    EXPECT_EQ(status_of(folder / out / "dml-s0"), "stopped");
    EXPECT_FALSE(std::filesystem::exists(folder / out / "dml-s1")) << "nothing is started any more";
    if (number == SIGTERM) continue;  // the same from here on
    const RunResult resumed = run_cohort(tiny(out, more), folder.path());
    ASSERT_EQ(resumed.code, 0) << resumed.err;
    expect_same_runs(folder / "whole", folder / out);
  }
}

// Ids of the children of a process.
std::vector<int> children_of(int pid) {
  std::vector<int> ids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string stat = read_text(entry.path() / "stat");
    const std::size_t at = stat.rfind(") ");
    if (at == std::string::npos) continue;
    std::istringstream fields(stat.substr(at + 2));
    char state = 0;
    int parent = 0;
    fields >> state >> parent;
    if (parent == pid) ids.push_back(std::stoi(name));
  }
  return ids;
}

TEST(Jobs, AFailureTakesNoOtherWithIt) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "x/dml-s0");
  std::ofstream(folder / "x/dml-s0/mine.txt") << "not a run";
  const RunResult result = run_cohort(tiny("x", {"--jobs", "2"}), folder.path());
  EXPECT_EQ(result.code, 2) << result.err;
  EXPECT_THAT(result.err, HasSubstr("exists and is not empty"));
  EXPECT_THAT(result.err, HasSubstr("1 of 4 runs failed: dml-s0; 3 done"));
  for (const char* cell : {"independent-s0", "independent-s1", "dml-s1"})
    EXPECT_EQ(status_of(folder / "x" / cell), "finished");

  CohortProcess process(tiny("y", {"--jobs", "2", "--epochs", "16"}), folder.path());
  ASSERT_TRUE(
      wait_until([&] { return process.err_so_far().find("independent-s0  epoch 1/") != std::string::npos; }));
  const std::vector<int> children = children_of(process.pid());
  ASSERT_FALSE(children.empty());
  kill(*std::min_element(children.begin(), children.end()), SIGKILL);
  const RunResult killed = process.wait();
  EXPECT_EQ(killed.code, 1) << killed.err;
  EXPECT_THAT(killed.err, HasSubstr("was killed by signal 9"));
  int finished = 0;
  for (const std::string& cell : kCells) finished += status_of(folder / "y" / cell) == "finished" ? 1 : 0;
  EXPECT_EQ(finished, 3);
  const RunResult again = run_cohort(tiny("y", {"--jobs", "2", "--epochs", "16"}), folder.path());
  EXPECT_EQ(again.code, 0) << again.err;
}

TEST(Jobs, WhatDoesNotFitIsRefusedBeforeAnythingStarts) {
  const TemporaryFolder folder;
  const RunResult result = run_cohort(tiny("x", {"--jobs", "4", "--memory", "0.02"}), folder.path());
  EXPECT_EQ(result.code, 5) << result.err;
  EXPECT_THAT(result.err, HasSubstr("4 cohorts at once take up to "));
  EXPECT_THAT(result.err, HasSubstr("0.02 GiB is allowed by --memory"));
  EXPECT_THAT(result.err, HasSubstr("--jobs 1"));
  EXPECT_FALSE(std::filesystem::exists(folder / "x"));
  for (const std::vector<std::string>& bad : std::vector<std::vector<std::string>>{
           {"--jobs", "0"}, {"--jobs", "many"}, {"--jobs", "2", "--memory", "0"}, {"--memory", "4"}}) {
    EXPECT_EQ(run_cohort(tiny("x", bad), folder.path()).code, 2) << bad[1];
  }
}

TEST(Jobs, MemoryIsThatOfTheLargestTogether) {
  const std::vector<MemoryUse> uses = {{10, 1}, {40, 0}, {20, 7}, {30, 2}};
  EXPECT_EQ(most_at_once(uses, 1).host, 40u);
  EXPECT_EQ(most_at_once(uses, 2).host, 70u);
  EXPECT_EQ(most_at_once(uses, 2).device, 9u);
  EXPECT_EQ(most_at_once(uses, 9).host, 100u);
  EXPECT_EQ(jobs_that_fit(uses, {100, 10}, 4), 4);
  EXPECT_EQ(jobs_that_fit(uses, {99, 10}, 4), 3);
  EXPECT_EQ(jobs_that_fit(uses, {1000, 8}, 4), 1);
  EXPECT_EQ(jobs_that_fit(uses, {5, 0}, 4), 1) << "one at a time is the user's own business";
  EXPECT_GT(available_host_bytes(), std::size_t{1} << 20);
}

TEST(Jobs, MemoryOfAControlGroupIsItsLimitWithoutCopiesOfFiles) {
  const auto available = [](const std::map<std::string, std::string>& files) {
    const TemporaryFolder root;
    for (const auto& [name, text] : files) {
      const std::filesystem::path path = root / name;
      std::filesystem::create_directories(path.parent_path());
      std::ofstream(path) << text;
    }
    return available_host_bytes(root.path().string());
  };
  const std::string meminfo = "MemTotal: 9 kB\nMemAvailable:       8 kB\n";
  EXPECT_EQ(available({{"proc/meminfo", meminfo}}), 8192u);
  const std::string v2 = "sys/fs/cgroup/memory.";
  EXPECT_EQ(available({{"proc/meminfo", meminfo}, {v2 + "max", "max\n"}, {v2 + "current", "5000\n"}}), 8192u);
  EXPECT_EQ(available({{"proc/meminfo", meminfo}, {v2 + "max", "6000\n"}, {v2 + "current", "5000\n"}}),
            1000u);
  const std::string stat = "anon 1900\nfile 3100\ninactive_file 3000\nactive_file 100\n";
  EXPECT_EQ(available({{"proc/meminfo", meminfo},
                       {v2 + "max", "6000\n"},
                       {v2 + "current", "5000\n"},
                       {v2 + "stat", stat}}),
            4100u);
  const std::string v1 = "sys/fs/cgroup/memory/memory.";
  EXPECT_EQ(available({{"proc/meminfo", meminfo},
                       {v1 + "limit_in_bytes", "6000\n"},
                       {v1 + "usage_in_bytes", "5000\n"},
                       {v1 + "stat", "inactive_file 1\ntotal_inactive_file 2000\ntotal_active_file 1000\n"}}),
            4000u);
  EXPECT_EQ(available({{"proc/meminfo", meminfo}, {v2 + "max", "10\n"}, {v2 + "current", "50\n"}}), 0u);
}

TEST(Jobs, StatusAndBoard) {
  JobStatus status("dml-s0", 10, 2);
  EXPECT_EQ(status.line(), "dml-s0  starts");
  EXPECT_EQ(status.take(
                {{"kind", "step"}, {"net", "a"}, {"epoch", 3}, {"step", 45}, {"loss", 1.25}, {"img_s", 350}}),
            "");
  status.take(
      {{"kind", "step"}, {"net", "b"}, {"epoch", 3}, {"step", 45}, {"loss", nullptr}, {"img_s", 350}});
  EXPECT_EQ(status.line(), "dml-s0  epoch 3/10  step 45  loss a 1.250 b nan  350 img/s");
  for (const char* net : {"a", "b"})
    EXPECT_EQ(status.take({{"kind", "epoch"}, {"net", net}, {"epoch", 3}, {"val", {{"top1", 0.5}}}}), "");
  EXPECT_EQ(status.take({{"kind", "epoch"}, {"net", "ens"}, {"epoch", 3}, {"test", {{"top1", 0.25}}}}),
            "dml-s0  epoch 3/10  a val 50.00  b val 50.00  ens test 25.00");

  std::string screen;
  double now = 1;
  JobBoard board(ProgressMode::kBar, {[&](std::string_view text) {
                                        screen += text;
                                        return true;
                                      },
                                      [&] { return now; }, [] { return 20; }});
  const std::map<int, JobStatus> running = {{0, status}, {1, JobStatus("x", 5, 1)}};
  board.show(running);
  EXPECT_EQ(screen, "dml-s0  epoch 3/10 \nx  starts\n") << "one line each, cut to the width";
  screen.clear();
  now += 0.01;
  board.show(running);
  EXPECT_EQ(screen, "") << "at most ten times a second";
  board.line("x  done");
  EXPECT_EQ(screen, "\x1b[2A\r\x1b[Jx  done\n");
  screen.clear();
  board.show({});
  EXPECT_EQ(screen, "");
}

}  // namespace
}  // namespace cohort::tools
