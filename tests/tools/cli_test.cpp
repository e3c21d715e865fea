// The built binary: exit code, message and "nothing created" for a table of command lines.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <vector>

#include "tests/support/run_cohort.h"

namespace cohort::tools {
namespace {

using test::run_cohort;
using test::RunResult;
using test::TemporaryFolder;
using testing::HasSubstr;

struct Line {
  std::vector<std::string> words;
  int code;
  const char* pattern;  // of stderr when the code is not 0, else of stdout
};

std::vector<Line> usage_lines() {
  return {
      {{"trian"}, 2, "unknown command 'trian'"},
      {{"confg"}, 2, "did you mean 'config'\\?"},
      {{"lst"}, 2, "did you mean 'list'\\?"},
      {{"docter"}, 2, "did you mean 'doctor'\\?"},
      {{"hlep"}, 2, "did you mean 'help'\\?"},
      {{""}, 2, "unknown command ''"},
      {{"--verison"}, 2, "unknown option '--verison'"},
      {{"-x"}, 2, "unknown option '-x'"},
      {{"--version", "--jsn"}, 2, "unexpected argument '--jsn'"},
      {{"help", "zzz"}, 2, "unknown command 'zzz'"},
      {{"help", "list", "x"}, 2, "unexpected argument 'x'"},
      {{"CONFIG"}, 2, "unknown command 'CONFIG'"},
      {{"\x1b[31m"}, 2, "unknown command '\\\\x1b\\[31m'"},
      {{"config"}, 2, "needs init\\|check\\|show"},
      {{"config", "shw"}, 2, "knows no 'shw'; did you mean 'show'"},
      {{"config", "check", "extra"}, 2, "unexpected argument 'extra'"},
      {{"config", "show", "--epoch", "3"}, 2, "unknown option '--epoch'; did you mean '--epochs'\\?"},
      {{"config", "show", "--epcohs=3"}, 2, "did you mean '--epochs'\\?"},
      {{"config", "show", "--batchsize", "3"}, 2, "did you mean '--batch-size'\\?"},
      {{"config", "show", "--momentun", "3"}, 2, "did you mean '--momentum'\\?"},
      {{"config", "show", "--nesterov"}, 2, "did you mean --set optim.nesterov=...\\?"},
      {{"config", "show", "--qqqqqqqq"}, 2, "unknown option '--qqqqqqqq'\n"},
      {{"config", "show", "--epochs"}, 2, "--epochs needs a value \\(N\\)"},
      {{"config", "show", "--epochs", "--lr", "1"}, 2, "--epochs needs a value"},
      {{"config", "show", "--epochs", ""}, 2, "--epochs: expected an integer"},
      {{"config", "show", "--epochs="}, 2, "--epochs: expected an integer"},
      {{"config", "show", "--epochs", "0"}, 2, "from 1 to 1000000, not 0"},
      {{"config", "show", "--epochs", "-1"}, 2, "not -1"},
      {{"config", "show", "--epochs", "1.5"}, 2, "not a number"},
      {{"config", "show", "--epochs", "3x"}, 2, "not '3x'"},
      {{"config", "show", "--epochs", "1e3"}, 2, "not a number"},
      {{"config", "show", "--epochs", "9999999999999999999999"}, 2, "--epochs: expected"},
      {{"config", "show", "--batch-size", "0"}, 2, "from 1 to 65536, not 0"},
      {{"config", "show", "--batch-size", "65537"}, 2, "not 65537"},
      {{"config", "show", "--lr", "nan"}, 2, "--lr: expected a number from 0 to 100, not nan"},
      {{"config", "show", "--lr", "inf"}, 2, "not inf"},
      {{"config", "show", "--lr", "-0.1"}, 2, "not -0.1"},
      {{"config", "show", "--lr", "0,1"}, 2, "not '0,1'"},
      {{"config", "show", "--lr", "1e400"}, 2, "--lr: expected"},
      {{"config", "show", "--momentum", "1"}, 2, "below 1, not 1"},
      {{"config", "show", "--weight-decay", "2"}, 2, "from 0 to 1, not 2"},
      {{"config", "show", "--set", "distill.dml.T=0"}, 2, "of at least 0.001"},
      {{"config", "show", "--method", "dlm"}, 2, "did you mean 'dml'\\?"},
      {{"config", "show", "--method", "DML"}, 2, "is not one of independent, kd, dkd, dml"},
      {{"config", "show", "--preset", "dml.papr"}, 2, "did you mean 'dml.paper'\\?"},
      {{"config", "show", "--device", "gpu"}, 2, "expected auto, cpu, cuda or cuda:N"},
      {{"config", "show", "--precision", "fp16"}, 2, "one of f32, tf32, bf16"},
      {{"config", "show", "--progress", "fancy"}, 2, "one of auto, bar, line, json, none"},
      {{"config", "show", "--color", "yes"}, 2, "one of auto, always, never"},
      {{"config", "show", "--nan", "halt"}, 2, "one of stop, skip, ignore"},
      {{"config", "show", "--data", "cifar101"}, 2, "did you mean 'cifar10'\\?|did you mean 'cifar100'\\?"},
      {{"config", "show", "--schedule", "stepp:1:2"}, 2, "is no schedule"},
      {{"config", "show", "--schedule", "step:3,2:0.1"}, 2, "must ascend"},
      {{"config", "show", "--val-fraction", "1"}, 2, "below 1"},
      {{"config", "show", "--seed", "-1"}, 2, "not -1"},
      {{"config", "show", "--seed", "1.0"}, 2, "not a number"},
      {{"config", "show", "--threads", "2000"}, 2, "from 0 to 1024"},
      {{"config", "show", "--keep", "1"}, 2, "not 1"},
      {{"config", "show", "--time-limit", "2h"}, 2, "not '2h'"},
      {{"config", "show", "--net"}, 2, "--net needs a value"},
      {{"config", "show", "--net", ""}, 2, "names no model"},
      {{"config", "show", "--net", ":lr=1"}, 2, "names no model"},
      {{"config", "show", "--net", "resnet20:"}, 2, "unknown key ''"},
      {{"config", "show", "--net", "resnet20:lrr=1"}, 2, "did you mean 'lr'\\?"},
      {{"config", "show", "--net", "resnet20:lr=x"}, 2, "'lr': expected a number"},
      {{"config", "show", "--net", "resnet20:id=a/b"}, 2, "no network id"},
      {{"config", "show", "--net", "resnet20:id=z", "--net", "resnet20:id=z"},
       2,
       "two networks have the id 'z'"},
      {{"config", "show", "--set"}, 2, "--set needs a value"},
      {{"config", "show", "--set", "x"}, 2, "'x' is not KEY=VALUE"},
      {{"config", "show", "--set", "=x"}, 2, "is not KEY=VALUE"},
      {{"config", "show", "-s", "optim.lrr=1"}, 2, "did you mean 'optim.lr'\\?"},
      {{"config", "show", "-soptim.lr=x"}, 2, "'optim.lr': expected a number"},
      {{"config", "show", "-s", "train=1"}, 2, "it is a section"},
      {{"config", "show", "-s", "networks=1"}, 2, "--net or in a file"},
      {{"config", "show", "-s", "optim.nesterov=yes"}, 2, "expected true or false"},
      {{"config", "show", "--method", "competitive", "-s", "distill.cd.pool=[mixup,nix]"}, 2, "nix"},
      {{"config", "show", "-s", "distill.dml.weights=1,2"}, 2, "weights"},
      {{"config", "show", "--net", "resnet21"}, 2, "unknown model 'resnet21'; did you mean 'resnet20'"},
      {{"config", "show", "--init", "a="}, 2, "'a=' is neither FILE nor ID=FILE"},
      {{"config", "show", "--init", "x", "--init", "y", "--init", "z"}, 2, "more files than networks: 'z'"},
      {{"config", "show", "--init", "z=w.safetensors"}, 2, "no network has the id 'z'"},
      {{"train", "--epoch", "3"}, 2, "did you mean '--epochs'"},
      {{"train", "extra"}, 2, "unexpected argument 'extra'"},
      {{"train", "--data", "cifar10"}, 2, "needs the folder of its files"},
      {{"train", "--resume", "nothing"}, 2, "'nothing' is no run folder"},
      {{"train", "--resume", ".", "--net", "resnet8"}, 2, "--net does not fit"},
      {{"train", "--fast-dev-run=0"}, 2, "expected 1 to 1000 steps"},
      {{"train", "--method", "kd", "--fast-dev-run"}, 2, "is the frozen teacher of kd, but has no weights"},
      {{"train", "--out", ""}, 2, "path of the run folder"},
      {{"train", "--out", std::string(256, 'x')}, 2, "longer than 255 bytes"},
      {{"config", "show", "-c"}, 2, "-c needs a value"},
      {{"config", "show", "-c", "none.toml"}, 2, "cannot read 'none.toml': No such file"},
      {{"config", "show", "-c", "."}, 2, "it is a folder"},
      {{"config", "show", "-c", "/dev/zero"}, 2, "larger than"},
      {{"config", "show", "-cnone.toml", "--lr", "x", "--bogus"}, 2, "unknown option '--bogus'"},
      {{"list"}, 2, "needs methods"},
      {{"list", "method"}, 2, "did you mean 'methods'\\?"},
      {{"list", "methods", "x"}, 2, "takes no further argument"},
      {{"list", "options", "optm"}, 2, "no settings under 'optm'"},
      {{"list", "methods", "--jso"}, 2, "did you mean '--json'\\?"},
      {{"list", "methods", "--json=1"}, 2, "--json takes no value"},
      {{"doctor", "now"}, 2, "unexpected argument 'now'"},
      {{"doctor", "--", "--json"}, 2, "unexpected argument '--json'"},
  };
}

TEST(Cli, UsageMistakesExitWith2AndCreateNothing) {
  const TemporaryFolder folder;
  const std::vector<Line> lines = usage_lines();
  EXPECT_GE(lines.size(), 80u);
  for (const Line& line : lines) {
    std::string shown;
    for (const std::string& word : line.words) shown += " " + word;
    const RunResult result = run_cohort(line.words, folder.path());
    EXPECT_EQ(result.code, line.code) << shown << "\n" << result.err;
    EXPECT_TRUE(std::regex_search(result.err, std::regex(line.pattern))) << shown << "\n" << result.err;
    EXPECT_EQ(result.out, "") << shown;
    EXPECT_EQ(result.err.compare(0, 6, "error:"), 0) << shown << "\n" << result.err;
    EXPECT_EQ(result.err.find('\x1b'), std::string::npos) << "no escapes off a terminal:" << shown;
    EXPECT_TRUE(std::filesystem::is_empty(folder.path())) << shown;
  }
}

TEST(Cli, WhatWorks) {
  const TemporaryFolder folder;
  const std::vector<Line> lines = {
      {{}, 0, "Usage: cohort COMMAND"},
      {{"config", "show", "--init", "x", "--init", "b=y"}, 0, "init = \"x\"[^]*id = \"b\"[^]*init = \"y\""},
      {{"--help"}, 0, "Exit codes: 0 done"},
      {{"-h"}, 0, "Usage: cohort COMMAND"},
      {{"help"}, 0, "Usage: cohort COMMAND"},
      {{"help", "config"}, 0, "Usage: cohort config init"},
      {{"config", "--help"},
       0,
       "Order: defaults < preset < fidelity < configuration files in order < COHORT_"},
      {{"config", "show", "--bogus", "--help"}, 0, "Usage: cohort config"},
      {{"--version"}, 0, "^cohort [0-9]+\\.[0-9]+\\.[0-9]+\n$"},
      {{"config", "check"}, 0, "valid"},
      {{"config", "show"}, 0, "epochs = 10 +# default"},
      {{"config", "show", "--epochs", "3", "--epochs=4"}, 0, "epochs = 4 +# --epochs"},
      {{"config", "show", "--net", "resnet8"}, 0, "model = \"resnet8\""},
      {{"config", "show", "-s", "seed=7"}, 0, "seed = 7 +# --set"},
      {{"config", "init", "--preset", "dml.paper"}, 0, "nesterov = true"},
      {{"list", "methods"}, 0, "\ndml +"},
      {{"list", "datasets"}, 0, "\nshapes +"},
      {{"list", "perturbations"}, 0, "\nmixup +"},
      {{"list", "presets"}, 0, "\nkd.cifar +"},
      {{"list", "options", "optim.lr"}, 0, "optim.lr"},
      {{"doctor"}, 0, "oneDNN"},
      {{"doctor"}, 0, "bf16  3x3 64->64 8x8"},
  };
  for (const Line& line : lines) {
    std::string shown;
    for (const std::string& word : line.words) shown += " " + word;
    const RunResult result = run_cohort(line.words, folder.path());
    EXPECT_EQ(result.code, line.code) << shown << "\n" << result.err;
    EXPECT_EQ(result.err, "") << shown;
    EXPECT_TRUE(std::regex_search(result.out, std::regex(line.pattern))) << shown << "\n" << result.out;
    EXPECT_TRUE(std::filesystem::is_empty(folder.path())) << shown;
  }
}

TEST(Cli, JsonIsOneDocument) {
  const TemporaryFolder folder;
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"--version", "--json"},
                                             {"doctor", "--json"},
                                             {"list", "methods", "--json"},
                                             {"list", "options", "--json"}}) {
    const RunResult result = run_cohort(words, folder.path());
    EXPECT_EQ(result.code, 0);
    EXPECT_FALSE(nlohmann::json::parse(result.out).empty()) << words[0];
  }
}

TEST(Cli, TheEnvironmentCounts) {
  const TemporaryFolder folder;
  RunResult result = run_cohort({"config", "show"}, folder.path(), {"COHORT_TRAIN_EPOCHS=3"});
  EXPECT_THAT(result.out, HasSubstr("# COHORT_TRAIN_EPOCHS"));
  result = run_cohort({"config", "show"}, folder.path(), {"COHORT_TRAIN_EPOCHS=x"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("COHORT_TRAIN_EPOCHS: 'train.epochs': expected an integer"));
  result = run_cohort({"config", "show"}, folder.path(), {"COHORT_TRAIN_EPOHCS=3"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.err, HasSubstr("warning:"));
  EXPECT_THAT(result.err, HasSubstr("did you mean 'COHORT_TRAIN_EPOCHS'?"));
  EXPECT_EQ(run_cohort({"config", "init"}, folder.path(), {"COHORT_TRAIN_EPOCHS=3"}).out,
            run_cohort({"config", "init"}, folder.path()).out);
}

TEST(Cli, NumbersDoNotDependOnTheLocale) {
  const TemporaryFolder folder;
  const std::string reference =
      run_cohort({"config", "show", "--lr", "0.05"}, folder.path(), {"LC_ALL=C"}).out;
  EXPECT_THAT(reference, HasSubstr("lr = 0.05"));
  for (const char* locale : {"LC_ALL=de_DE.UTF-8", "LC_ALL=tr_TR.UTF-8", "LC_ALL=C.UTF-8"}) {
    EXPECT_EQ(run_cohort({"config", "show", "--lr", "0.05"}, folder.path(), {locale}).out, reference)
        << locale;
  }
}

TEST(Cli, AColouredMessageWhenAsked) {
  const TemporaryFolder folder;
  EXPECT_THAT(run_cohort({"list", "x", "--color=always"}, folder.path()).err, HasSubstr("error:"));
  const RunResult result = run_cohort({"config", "shw", "--color", "always"}, folder.path());
  EXPECT_THAT(result.err, HasSubstr("\x1b[1;31merror:\x1b[0m"));
  EXPECT_EQ(run_cohort({"config", "shw", "--color=never"}, folder.path()).err.find('\x1b'),
            std::string::npos);
}

// Hostile configuration files: refused in well under a second, without a crash.
TEST(Cli, HostileFiles) {
  const TemporaryFolder folder;
  const auto check = [&](const std::string& content, const char* part) {
    std::ofstream(folder / "x.toml", std::ios::binary) << content;
    const auto begin = std::chrono::steady_clock::now();
    const RunResult result = run_cohort({"config", "check", "-c", "x.toml"}, folder.path());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    EXPECT_EQ(result.code, 2) << result.err.substr(0, 300);
    EXPECT_THAT(result.err.substr(0, 5000), HasSubstr(part));
    EXPECT_LT(seconds, 5) << "expected far under 1 s; the limit allows for a busy machine";
    EXPECT_LT(result.err.size(), 100000u);
  };
  check("[/]", "x.toml:1:2");
  std::string dots = "a";
  for (int i = 0; i < 200000; ++i) dots += ".a";
  check(dots + " = 1", "nested deeper than 64");
  check("a = " + std::string(200000, '['), "nested deeper than 64");
  check("a = \"\xFF\"", "not UTF-8");
  check("a = \"\x1b[31m\"", "control character");
  check(std::string(2 << 20, '#'), "larger than 1048576 bytes");
  std::ofstream(folder / "huge.toml").close();
  std::filesystem::resize_file(folder / "huge.toml", std::uintmax_t{1} << 30);
  EXPECT_THAT(run_cohort({"config", "check", "-c", "huge.toml"}, folder.path()).err,
              HasSubstr("larger than"));
  std::ofstream(folder / "ok.toml", std::ios::binary) << "\xEF\xBB\xBFseed = 3\r\n[train]\r\nepochs = 2\r\n";
  EXPECT_EQ(run_cohort({"config", "check", "-c", "ok.toml"}, folder.path()).code, 0);
}

TEST(Cli, AClosedOrFullStandardOutput) {
  const TemporaryFolder folder;
  if (std::filesystem::exists("/dev/full")) {
    test::CohortProcess process({"list", "options"}, folder.path(), {}, "/dev/full");
    const RunResult result = process.wait();
    EXPECT_EQ(result.code, 4);
    EXPECT_THAT(result.err, HasSubstr("cannot write to standard output"));
  }
  const std::string command =
      std::string(COHORT_BINARY) + " list options 2>/dev/null | head -1 >/dev/null; exit 0";
  EXPECT_EQ(system(command.c_str()), 0);
}

}  // namespace
}  // namespace cohort::tools
