#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/run_cohort.h"
#include "tests/support/temporary_folder.h"

namespace cohort::tools {
namespace {

using nlohmann::json;
using test::run_cohort;
using test::RunResult;
using test::TemporaryFolder;
using testing::HasSubstr;

TEST(InspectSimilarity, DrawsARunAndFollowsItsCheckpoints) {
  const TemporaryFolder folder;
  const RunResult trained = run_cohort({"train",
                                        "--method",
                                        "adm",
                                        "--net",
                                        "resnet8:id=x",
                                        "--net",
                                        "resnet8:id=y",
                                        "--set",
                                        "data.train_images=64",
                                        "--set",
                                        "data.test_images=32",
                                        "--set",
                                        "data.size=16",
                                        "--batch-size",
                                        "16",
                                        "--epochs",
                                        "3",
                                        "--threads",
                                        "1",
                                        "--out",
                                        "run"},
                                       folder.path());
  ASSERT_EQ(trained.code, 0) << trained.err;
  const RunResult result =
      run_cohort({"inspect", "similarity", "run", "--count", "3", "-o", "s.svg", "--json"}, folder.path());
  ASSERT_EQ(result.code, 0) << result.err;
  const json answer = json::parse(result.out);
  ASSERT_EQ(answer["checkpoints"].size(), 3);
  for (const json& row : answer["checkpoints"]) {
    EXPECT_GE(row["similarity"], -1);
    EXPECT_LE(row["similarity"], 1);
    EXPECT_GT(row["agreement_on_foreground"], 0);
    EXPECT_LT(row["agreement_on_foreground"], 1);
  }
  EXPECT_GT(answer["foreground_area"], 0);
  const std::string svg = test::read_text(folder / "s.svg");
  EXPECT_THAT(svg, HasSubstr("Where x (resnet8) and y (resnet8) look alike"));
  EXPECT_THAT(svg, HasSubstr("disc"));

  const auto code = [&](std::vector<std::string> more) {
    std::vector<std::string> words = {"inspect", "similarity", "run"};
    words.insert(words.end(), more.begin(), more.end());
    return run_cohort(words, folder.path()).code;
  };
  EXPECT_EQ(code({"--pair", "y,x"}), 0);
  EXPECT_EQ(code({"--pair", "x,x"}), 2);
  EXPECT_EQ(code({"--pair", "x,z"}), 2);
  EXPECT_EQ(code({"--count", "0"}), 2);
  EXPECT_EQ(code({"-o", "s.png"}), 2);
}

}  // namespace
}  // namespace cohort::tools
