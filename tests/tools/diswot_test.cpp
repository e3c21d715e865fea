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

RunResult inspect(const TemporaryFolder& folder, std::vector<std::string> words) {
  words.insert(words.begin(), {"inspect", "diswot"});
  words.insert(words.end(), {"--set", "data.train_images=64", "--set", "data.test_images=16", "--set",
                             "data.size=16", "--images", "16", "--threads", "1"});
  return run_cohort(words, folder.path());
}

TEST(InspectDiswot, RanksStudentsOfATeacher) {
  const TemporaryFolder folder;
  const RunResult result = inspect(folder, {"resnet8,resnet14,wrn_16_2", "--teacher", "resnet20", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const json answer = json::parse(result.out);
  EXPECT_EQ(answer["teacher"], "resnet20");
  EXPECT_EQ(answer["images"], 16);
  ASSERT_EQ(answer["students"].size(), 3U);
  double last = 0;
  for (const json& row : answer["students"]) {
    EXPECT_GT(row["relation"], 0);
    EXPECT_GT(row["semantic"], 0);
    EXPECT_NEAR(row["score"].get<double>(), -row["relation"].get<double>() - row["semantic"].get<double>(),
                1e-9);
    EXPECT_LE(row["score"], last) << "best first";
    last = row["score"];
  }
  EXPECT_EQ(inspect(folder, {"resnet8,resnet14,wrn_16_2", "--teacher", "resnet20", "--json"}).out,
            result.out);
  EXPECT_THAT(inspect(folder, {"resnet8", "--teacher", "resnet20"}).out, HasSubstr("score"));
}

TEST(InspectDiswot, RefusesWhatIsMissing) {
  const TemporaryFolder folder;
  EXPECT_EQ(inspect(folder, {"resnet8"}).code, 2);
  EXPECT_EQ(inspect(folder, {"resnet8,nothing", "--teacher", "resnet20"}).code, 2);
}

}  // namespace
}  // namespace cohort::tools
