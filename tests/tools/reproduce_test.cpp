// Published tables: every cell trains in miniature, the paper's numbers stand beside it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
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

// Several at once: a row that starts from another's weights waits for it.
TEST(Reproduce, OfflineRowsFollowTheirTeacher) {
  const TemporaryFolder folder;
  std::vector<std::string> words = tiny("kdcl-table7", "t7");
  words.insert(words.end(), {"--jobs", "4", "--json"});
  const RunResult result = run_cohort(words, folder.path());
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_LT(result.err.find("independent-s0  done"), result.err.find("KD_b-_a-s0  starts"));
  std::map<std::string, json> of_b;  // by row
  for (const json& row : json::parse(result.out)) {
    if (row["net"] == "b") of_b[row["method"]] = row["test_last_mean"];
  }
  EXPECT_EQ(of_b.at("KD b->a"), of_b.at("independent")) << "the frozen teacher";
}

TEST(Reproduce, TablesHoldTheNumbersOfTheirPapers) {
  const auto top1 = [](const char* table, std::size_t pair, const char* label) {
    for (const PublishedRow& row : find_published_table(table).pairs.at(pair).rows) {
      if (row.label == label) return row.top1;
    }
    return std::map<std::string, double>();
  };
  using Values = std::map<std::string, double>;
  EXPECT_EQ(top1("kdcl-table9", 0, "lambda 2"), (Values{{"a", 74.7}, {"b", 76.1}}));
  EXPECT_EQ(top1("kdcl-table9", 0, "lambda 1"), top1("kdcl-table7", 0, "General+ICL")) << "the same run";
  EXPECT_EQ(top1("adm-table8", 2, "KD+ADM"), (Values{{"s", 70.24}}));
  EXPECT_EQ(top1("adm-table8", 0, "independent"), (Values{{"s", 72.50}, {"t", 79.42}}));
  EXPECT_EQ(top1("adm-table11", 0, "ADM 2T1S"), (Values{{"m", 74.09}, {"s", 72.51}, {"t", 80.72}}));
}

// ResNet-50 for CIFAR is not there: its rows are named, not trained.
TEST(Reproduce, NamesWhatItLeavesOut) {
  const TemporaryFolder folder;
  std::vector<std::string> words = tiny("adm-table8", "t8");
  words.insert(words.end(), {"--jobs", "0"});
  const RunResult result = run_cohort(words, folder.path());
  EXPECT_EQ(result.code, 2) << result.err;
  EXPECT_THAT(result.err,
              HasSubstr("left out: mobilenet_v2_half+resnet50, KD: the model resnet50 is not there"));
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
      const bool printed = table.name != "competitive-ablation" && table.name != "kdcl-table9";
      EXPECT_EQ(pair.rows.front().label == "independent", printed) << table.name;
      for (const PublishedRow& row : pair.rows) {
        ConfigSources sources;
        sources.flags.push_back({"table", "preset", table.preset});
        for (const auto& [key, value] : row.settings) sources.flags.push_back({"table", key, value});
        sources.nets.assign(row.nets.empty() ? pair.nets.size() : row.nets.size(), "resnet8");
        EXPECT_NO_THROW(resolve_config(sources)) << table.name << " " << row.label;
        EXPECT_FALSE(row.top1.empty());
      }
    }
  }
}

}  // namespace
}  // namespace cohort::tools
