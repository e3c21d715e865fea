// Published tables: every cell trains in miniature, the paper's numbers stand beside it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/run_cohort.h"
#include "tests/support/temporary_folder.h"
#include "tools/published.h"
#include "tools/run_setup.h"

namespace cohort::tools {
namespace {

using nlohmann::json;
using test::run_cohort;
using test::RunResult;
using test::TemporaryFolder;
using testing::HasSubstr;

std::vector<std::string> tiny(const std::string& table, const std::string& out) {
  return {"reproduce",    table,
          "--data",       "shapes",
          "--set",        "data.train_images=100",
          "--set",        "data.test_images=16",
          "--set",        "data.size=8",
          "--batch-size", "16",
          "--scale",      "0.005",
          "--threads",    "1",
          "--out",        out};
}

TEST(Reproduce, TrainsATableAndResumesIt) {
  const TemporaryFolder folder;
  std::vector<std::string> words = tiny("kdcl-table7", "t7");
  words.push_back("--json");
  const RunResult first = run_cohort(words, folder.path());
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_THAT(first.err, HasSubstr("1 of 200 epochs"));
  const json rows = json::parse(first.out);
  const auto find = [&](const char* method, const char* net) {
    for (const json& row : rows) {
      if (row["method"] == method && row["net"] == net) return row;
    }
    return json();
  };
  EXPECT_EQ(find("DML", "a")["published_percent"], 73.3);
  EXPECT_EQ(find("DML", "b")["model"], "wrn_16_2");
  EXPECT_EQ(find("Naive+ICL", "b")["published_percent"], 74.9);
  // The frozen teacher is the network that `independent` trained.
  EXPECT_EQ(find("KD b->a", "b")["test_last_mean"], find("independent", "b")["test_last_mean"]);
  EXPECT_EQ(find("KD a->b", "a")["test_last_mean"], find("independent", "a")["test_last_mean"]);
  const RunResult again = run_cohort(words, folder.path());
  EXPECT_EQ(again.out, first.out) << "nothing is trained twice";
}

TEST(Reproduce, RefusesWhatItDoesNotKnow) {
  const TemporaryFolder folder;
  EXPECT_EQ(run_cohort(tiny("kdcl-table77", "x"), folder.path()).code, 2);
  EXPECT_EQ(run_cohort({"reproduce", "kdcl-table7"}, folder.path()).code, 2) << "no folder";
  EXPECT_EQ(run_cohort({"reproduce", "kdcl-table7", "--out", "x", "--scale", "0"}, folder.path()).code, 2);
  EXPECT_EQ(run_cohort({"reproduce", "kdcl-table7", "--out", "x", "--scale", "2"}, folder.path()).code, 2);
}

// Every table whose parts are there resolves: keys, presets and networks exist.
TEST(Reproduce, TablesNameRealSettings) {
  for (const PublishedTable& table : published_tables()) {
    for (const PublishedPair& pair : table.pairs) {
      ASSERT_FALSE(pair.rows.empty()) << table.name;
      EXPECT_EQ(pair.rows.front().label == "independent", table.name != "competitive-ablation");
      for (const PublishedRow& row : pair.rows) {
        ConfigSources sources;
        sources.flags.push_back({"table", "preset", table.preset});
        for (const auto& [key, value] : row.settings) sources.flags.push_back({"table", key, value});
        sources.nets = {"resnet8:id=a", "resnet8:id=b"};
        try {
          resolve_config(sources);
        } catch (const Error& error) {
          EXPECT_THAT(error.what(), HasSubstr("is not one of independent")) << table.name << " " << row.label;
        }
        EXPECT_FALSE(row.top1.empty());
      }
    }
  }
}

}  // namespace
}  // namespace cohort::tools
