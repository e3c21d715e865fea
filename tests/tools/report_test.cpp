#include "tools/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>

#include "tests/support/temporary_folder.h"
#include "tools/comparison.h"
#include "tools/image_file.h"
#include "tools/svg_chart.h"

namespace cohort::tools {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Chart, TicksAreRoundAndInside) {
  EXPECT_EQ(axis_ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(axis_ticks(-1, 1, 4), (std::vector<double>{-1, -0.5, 0, 0.5, 1}));
  EXPECT_EQ(axis_ticks(1, 3, 8, true), (std::vector<double>{1, 2, 3})) << "epochs: no tick at 1.5";
  EXPECT_EQ(axis_ticks(0.5, 1.5, 8, true), std::vector<double>{1});
  EXPECT_EQ(axis_ticks(1, 200, 8, true), (std::vector<double>{50, 100, 150, 200}));
  EXPECT_TRUE(axis_ticks(1, 1, 5).empty());
  EXPECT_TRUE(axis_ticks(0, std::numeric_limits<double>::infinity(), 5).empty());
  for (const auto& [low, high] : {std::pair{0.013, 0.9}, {-3e7, 1e9}, {71.2, 71.9}, {1e-9, 2e-9}}) {
    const std::vector<double> ticks = axis_ticks(low, high, 6);
    EXPECT_GE(ticks.size(), 2u) << low;
    for (const double tick : ticks) {
      EXPECT_GE(tick, low - 1e-9 * std::abs(low));
      EXPECT_LE(tick, high * (1 + 1e-9));
    }
  }
}

TEST(Chart, GapsAndHostileNames) {
  const double nan = std::nan("");
  const std::string svg =
      svg_chart({"a <b> & \"c\"", "x", "y"}, {{"<script>", {{0, 1}, {1, nan}, {2, 3}, {3, 4}}}});
  EXPECT_THAT(svg, HasSubstr("a &lt;b&gt; &amp; &quot;c&quot;"));
  EXPECT_THAT(svg, Not(HasSubstr("<script")));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  std::size_t moves = 0;
  for (std::size_t at = svg.find("d=\"M"); at < svg.find("</svg>"); at = svg.find('M', at + 4)) ++moves;
  EXPECT_EQ(moves, 2u) << "the line is broken at the missing value";
  EXPECT_THAT(svg_chart({"empty", "x", "y"}, {{"a", {{0, nan}}}}), HasSubstr("no values yet"));
  EXPECT_THAT(svg_chart({"one", "x", "y"}, {{"a", {{5, 5}}}}), Not(HasSubstr("nan")));
}

TEST(Chart, LongSeriesAreThinned) {
  ChartSeries series{"a", {}};
  for (int i = 0; i < 100000; ++i) series.points.push_back({static_cast<double>(i), std::sin(i * 0.001)});
  EXPECT_LT(svg_chart({"t", "x", "y"}, {series}).size(), 100000u);
}

TEST(Report, OfARunThatGoesOnAndOfDamagedRecords) {
  const test::TemporaryFolder folder;
  std::ofstream(folder / "config.toml") << "method = \"dml\" # <b>\n";
  std::ofstream(folder / "metrics.jsonl")
      << R"({"v":1,"kind":"run_start","version":"0.1.0","method":"dml","loss":"L < 1","seed":3,"nets":[{"id":"a"}]})"
      << "\n"
      << R"({"v":1,"kind":"step","step":1,"net":"a","loss":null,"nonfinite":["loss"]})"
      << "\n"
      << R"({"v":1,"kind":"step","step":2,"net":"a","loss":"text","lr":[1]})"
      << "\n"
      << "not json\n[1]\n"
      << R"({"v":1,"kind":"warning","message":"<img src=x>"})"
      << "\n"
      << R"({"v":1,"kind":"epoch","epo)";
  const RunRecords run = read_run(system_file_system(), folder.path().string());
  EXPECT_EQ(run.damaged_lines, 2);
  EXPECT_EQ(run.steps.size(), 2u);
  const std::string html = html_report(run);
  for (const char* part :
       {"running", "L &lt; 1", "&lt;img src=x&gt;", "&lt;b&gt;", "2 lines of metrics.jsonl are damaged"}) {
    EXPECT_THAT(html, HasSubstr(part));
  }
  EXPECT_THROW(read_run(system_file_system(), (folder / "none").string()), Error);
}

TEST(Comparison, SpreadAndInterval) {
  EXPECT_DOUBLE_EQ(spread({1, 2, 3, 4}).mean, 2.5);
  EXPECT_NEAR(spread({1, 2, 3, 4}).deviation, 1.2909944487358056, 1e-15);
  EXPECT_TRUE(std::isnan(spread({1}).deviation));
  EXPECT_NEAR(half_interval({1, 2, 3, 4}), 3.182 * 1.2909944487358056 / 2, 1e-12);
  EXPECT_TRUE(std::isnan(half_interval({1})));
  EXPECT_NEAR(half_interval(std::vector<double>(40, 5.0)), 0, 0);
}

Json summary_of(const char* method, int seed, double top1, const char* status = "finished") {
  return {{"status", status},
          {"method", method},
          {"seed", seed},
          {"seconds", 65.0},
          {"nets", {{{"id", "a"}, {"model", "m"}, {"test_at_best", top1}, {"test_last", top1 - 0.01}}}}};
}

TEST(Comparison, DifferencesArePairedBySeed) {
  std::vector<LabelledRun> runs;
  for (const Json& summary :
       {summary_of("independent", 0, 0.50), summary_of("dml", 1, 0.63), summary_of("dml", 0, 0.52),
        summary_of("independent", 1, 0.60), summary_of("dml", 2, 0.9, "stopped"), Json()})
    runs.push_back(labelled(summary));
  std::vector<ComparisonRow> rows = compare_runs(runs);
  EXPECT_EQ(
      comparison_table(rows).text(),
      "method       net  model  runs     test@best  median  to independent [95%]     test@last  median  "
      "to independent [95%]  time\n"
      "independent  a    m         2  55.00 ± 7.07   55.00                        54.00 ± 7.07   54.00  "
      "                      1:05\n"
      "dml          a    m         2  57.50 ± 7.78   57.50  +2.50 [-3.85, +8.85]  56.50 ± 7.78   56.50  "
      "+2.50 [-3.85, +8.85]  1:05\n");
  const Json json = comparison_json(rows);
  EXPECT_NEAR(json[1]["test_last_to_independent"].get<double>(), 0.025, 1e-12);
  EXPECT_FALSE(json[0].contains("test_last_to_independent"));
  rows[1].published = 57.1;
  const std::string csv = comparison_csv(rows);
  EXPECT_EQ(
      csv.substr(0, csv.find('\n')),
      "method,net,model,runs,test_at_best_mean,test_at_best_deviation,test_at_best_median,test_last_mean,"
      "test_last_deviation,test_last_median,seconds,test_at_best_to_independent,"
      "test_at_best_to_independent_half_interval,test_last_to_independent,"
      "test_last_to_independent_half_interval,published_percent");
}

TEST(Comparison, PairsAreTablesOfTheirOwn) {
  const std::vector<ComparisonRow> rows =
      compare_runs({{"p", "independent", summary_of("independent", 0, 0.5)},
                    {"q", "independent", summary_of("independent", 0, 0.7)},
                    {"q", "DML", summary_of("dml", 0, 0.8)}});
  const Json json = comparison_json(rows);
  EXPECT_EQ(json[2]["pair"], "q");
  EXPECT_NEAR(json[2]["test_at_best_to_independent"].get<double>(), 0.1, 1e-12);
}

TEST(Comparison, MedianOfAnEvenNumber) {
  EXPECT_EQ(spread({4, 1, 3, 2}).median, 2.5);
  EXPECT_EQ(spread({4, 1, 3}).median, 3);
}

TEST(FitImage, KeepsConstantsAndCentres) {
  Image image{40, 60, 3, std::vector<std::uint8_t>(40 * 60 * 3, 77)};
  const Image small = fit_image(image, 8, 8);
  EXPECT_EQ(small.pixels, std::vector<std::uint8_t>(8 * 8 * 3, 77));
  EXPECT_EQ(fit_image(image, 64, 64).pixels, std::vector<std::uint8_t>(64 * 64 * 3, 77));
  // What lies outside of the centred square does not matter.
  for (int y = 0; y < 40; ++y) {
    for (int x = 0; x < 60; ++x) {
      if (x < 10 || x >= 50) image.pixels[static_cast<std::size_t>((y * 60 + x) * 3)] = 255;
    }
  }
  EXPECT_EQ(fit_image(image, 8, 8).pixels, small.pixels);
  Image ramp{1, 4, 1, {0, 100, 200, 40}};
  ramp.height = 2;
  ramp.width = 2;
  EXPECT_EQ(fit_image(ramp, 2, 2).pixels, ramp.pixels) << "an image that fits is untouched";
  const Image half = fit_image({2, 2, 1, {0, 100, 200, 40}}, 1, 1);
  EXPECT_EQ(half.pixels, std::vector<std::uint8_t>{85}) << "the mean of four pixels";
}

}  // namespace
}  // namespace cohort::tools
