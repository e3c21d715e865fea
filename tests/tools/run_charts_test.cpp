// Reliability diagrams and timelines of teachers: what is drawn and told against plain sums.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <regex>

#include "tests/support/run_cohort.h"
#include "tests/support/temporary_folder.h"
#include "tools/calibration.h"
#include "tools/report.h"
#include "tools/teacher_timeline.h"

namespace cohort::tools {
namespace {

using nlohmann::json;
using test::read_text;
using test::run_cohort;
using test::RunResult;
using test::TemporaryFolder;
using testing::HasSubstr;
using testing::Not;

// Sample by sample, without bins: ECE = sum over 15 intervals |sum of (confidence - right)| / n.
double reference_ece(const std::vector<std::pair<double, bool>>& samples) {
  double ece = 0;
  for (int bin = 0; bin < 15; ++bin) {
    double sum = 0;
    for (const auto& [confidence, right] : samples) {
      if (confidence > bin / 15.0 && confidence <= (bin + 1) / 15.0) sum += confidence - (right ? 1 : 0);
    }
    ece += std::abs(sum);
  }
  return ece / static_cast<double>(samples.size());
}

TEST(Calibration, BinsAreTheSumsOfASampleBySampleReference) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  constexpr int kSamples = 700, kClasses = 4;
  std::vector<std::vector<float>> logits(2);
  std::vector<std::int32_t> labels;
  std::vector<std::vector<std::pair<double, bool>>> expected(3);
  for (int n = 0; n < kSamples; ++n) {
    labels.push_back(static_cast<std::int32_t>(random() % kClasses));
    std::vector<double> mean(kClasses);
    for (std::size_t k = 0; k < 2; ++k) {
      std::vector<double> p;
      for (int c = 0; c < kClasses; ++c) {
        logits[k].push_back(2 * normal(random) + (c == labels.back() ? 1.0F : 0.0F));
        p.push_back(std::exp(static_cast<double>(logits[k].back())));
      }
      double total = 0;
      for (const double value : p) total += value;
      for (std::size_t c = 0; c < kClasses; ++c) mean[c] += (p[c] /= total) / 2;
      const auto best = std::max_element(p.begin(), p.end());
      expected[k].push_back({*best, best - p.begin() == labels.back()});
    }
    const auto best = std::max_element(mean.begin(), mean.end());
    expected[2].push_back({*best, best - mean.begin() == labels.back()});
  }
  const distill::CohortScores scores = distill::score(logits, labels, kClasses);
  for (std::size_t k = 0; k < 3; ++k) {
    const distill::Scores& s = k < 2 ? scores.members[k] : scores.ensemble;
    EXPECT_NEAR(s.ece, reference_ece(expected[k]), 1e-12);
    for (int bin = 0; bin < 15; ++bin) {
      std::int64_t samples = 0, correct = 0;
      double confidence = 0;
      for (const auto& [sure, right] : expected[k]) {
        if (!(sure > bin / 15.0 && sure <= (bin + 1) / 15.0)) continue;
        ++samples;
        correct += right ? 1 : 0;
        confidence += sure;
      }
      const distill::CalibrationBin& actual = s.bins[static_cast<std::size_t>(bin)];
      EXPECT_EQ(actual.samples, samples) << bin;
      EXPECT_EQ(actual.correct, correct) << bin;
      EXPECT_NEAR(actual.confidence, samples == 0 ? 0 : confidence / static_cast<double>(samples), 1e-12);
    }
    const auto back = bins_from(bins_json(s.bins));
    ASSERT_TRUE(back.has_value());
    EXPECT_EQ(bins_json(*back), bins_json(s.bins));
  }
}

TEST(Calibration, DamagedBinsAreNotDrawn) {
  const Json good = bins_json({});
  ASSERT_TRUE(bins_from(good).has_value());
  for (const char* key : {"samples", "correct", "confidence"}) {
    Json bad = good;
    bad.erase(key);
    EXPECT_FALSE(bins_from(bad)) << key;
    bad = good;
    bad[key].erase(3);
    EXPECT_FALSE(bins_from(bad)) << key;
    bad = good;
    bad[key][3] = "many";
    EXPECT_FALSE(bins_from(bad)) << key;
    bad = good;
    bad[key][3] = -1;
    EXPECT_FALSE(bins_from(bad)) << key;
  }
  Json more_right_than_seen = good;
  more_right_than_seen["correct"][0] = 1;
  EXPECT_FALSE(bins_from(more_right_than_seen));
  EXPECT_FALSE(bins_from(Json()));
}

struct Rectangle {
  double x, y, width, height;
  std::string hover;
};
std::vector<Rectangle> rectangles(const std::string& svg) {
  static const std::regex pattern(
      "<rect(?: fill-opacity=\"0.4\")? x=\"([-0-9.]+)\" y=\"([-0-9.]+)\" width=\"([-0-9.]+)\" "
      "height=\"([-0-9.]+)\"><title>([^<]*)</title>");
  std::vector<Rectangle> found;
  for (std::sregex_iterator it(svg.begin(), svg.end(), pattern), end; it != end; ++it) {
    found.push_back(
        {std::stod((*it)[1]), std::stod((*it)[2]), std::stod((*it)[3]), std::stod((*it)[4]), (*it)[5]});
  }
  return found;
}

TEST(Calibration, BarsAreAsHighAsTheAccuracy) {
  CalibrationBins bins{};
  bins[4] = {40, 10, 0.3};
  bins[14] = {60, 57, 0.97};
  const Chart chart = reliability_chart("a <b>", bins, 0.032);
  const std::string svg = svg_chart(chart.options, chart.series);
  const std::vector<Rectangle> boxes = rectangles(svg);
  ASSERT_EQ(boxes.size(), 4u) << "a bar and a gap for each bin with images";
  const double full = boxes[0].height / 0.25;  // the axis from 0 to 1
  EXPECT_NEAR(boxes[1].height, full * 0.05, 0.02) << "confidence 0.3, accuracy 0.25";
  EXPECT_NEAR(boxes[2].height, full * 0.95, 0.02);
  EXPECT_NEAR(boxes[3].height, full * 0.02, 0.02);
  EXPECT_NEAR(boxes[0].y + boxes[0].height, boxes[2].y + boxes[2].height, 0.02) << "bars stand on the axis";
  EXPECT_NEAR(boxes[1].y + boxes[1].height, boxes[0].y, 0.02) << "overconfident: the gap lies on the bar";
  EXPECT_NEAR((boxes[2].x - boxes[0].x) / boxes[0].width, 10, 0.01);
  EXPECT_EQ(boxes[0].hover,
            "confidence 0.267 to 0.333: 40 images, accuracy 0.2500, mean confidence 0.3000, gap +0.0500");
  EXPECT_THAT(svg, HasSubstr("ECE 0.0320; 100 images, right 67.00 %, mean confidence 70.20 %"));
  EXPECT_THAT(svg, HasSubstr(">40</text>"));
  EXPECT_THAT(svg, HasSubstr(">60</text>"));
  EXPECT_THAT(svg, HasSubstr("a &lt;b&gt;"));
  EXPECT_THAT(reliability_chart("none", {}, 0).options.caption, HasSubstr("no image"));
}

TEST(Teachers, StepsAreCountedOnceAndEveryTeacherPausesForItself) {
  const TemporaryFolder folder;
  std::ofstream(folder / "config.toml") << "method = \"competitive\"\n";
  std::ofstream log(folder / "metrics.jsonl");
  log << R"({"v":1,"kind":"run_start","method":"m","nets":[{"id":"a"},{"id":"b"},{"id":"c"}]})"
      << "\n";
  // Steps 1 to 6, two an epoch; teachers b b, a c, c c; a is a teacher that pauses in steps 2, 5 and 6.
  const char* const teachers[] = {"b", "b", "a", "c", "c", "c"};
  const char* const modes[] = {"learning", "expert", "learning", "learning", "expert", "expert"};
  for (int step = 1; step <= 6; ++step) {
    for (const char* net : {"a", "b", "c"}) {
      json record = {{"v", 1},       {"kind", "step"},
                     {"step", step}, {"epoch", (step + 1) / 2},
                     {"net", net},   {"teacher", teachers[step - 1]}};
      if (*net == 'a') record["mode"] = modes[step - 1];
      if (step == 4 && *net == 'a') continue;  // lost: the others still tell the teacher
      log << record.dump() << "\n";
    }
  }
  for (const char* damaged : {R"("step":6,"epoch":-1,"net":"a")", R"("step":6,"epoch":1e300,"net":"a")",
                              R"("step":6,"epoch":3,"net":"z")", R"("step":6,"epoch":3,"net":"a")"}) {
    log << R"({"v":1,"kind":"step","teacher":"nobody",)" << damaged << "}\n";
  }
  log.close();
  const RunRecords run = read_run(system_file_system(), folder.path().string());
  const TeacherTimeline timeline = teacher_timeline(run);
  ASSERT_EQ(timeline.windows.size(), 3u);
  const auto taught = [&](std::size_t window) {
    std::vector<std::int64_t> counts;
    for (const TeacherTimeline::Network& network : timeline.windows[window].networks)
      counts.push_back(network.taught);
    return counts;
  };
  EXPECT_EQ(taught(0), (std::vector<std::int64_t>{0, 2, 0}));
  EXPECT_EQ(taught(1), (std::vector<std::int64_t>{1, 0, 1}));
  EXPECT_EQ(taught(2), (std::vector<std::int64_t>{0, 0, 2}));
  EXPECT_EQ(timeline.windows[0].networks[0].expert, 1);
  EXPECT_EQ(timeline.windows[1].networks[0].learning, 1) << "one of the two records is lost";
  EXPECT_EQ(timeline.windows[2].networks[0].expert, 2);
  EXPECT_TRUE(timeline.has_modes(0));
  EXPECT_FALSE(timeline.has_modes(1));

  const std::vector<Chart> charts = teacher_charts(timeline);
  ASSERT_EQ(charts.size(), 2u);
  EXPECT_EQ(charts[0].options.caption, "6 steps: a taught 16.67 %, b taught 33.33 %, c taught 50.00 %");
  EXPECT_EQ(charts[1].options.caption, "5 steps: expert 60.00 %, learning 40.00 %");
  const std::vector<Rectangle> boxes = rectangles(svg_document("t", charts));
  ASSERT_EQ(boxes.size(), 4u + 4u);
  EXPECT_EQ(boxes[0].hover, "epoch 1: b taught 2 of 2 steps, 100.00 %");
  EXPECT_EQ(boxes[1].hover, "epoch 2: a taught 1 of 2 steps, 50.00 %");
  EXPECT_NEAR(boxes[1].height, boxes[0].height / 2, 0.02);
  EXPECT_NEAR(boxes[2].y + boxes[2].height, boxes[1].y, 0.02) << "stacked";
  EXPECT_NEAR(boxes[2].y, boxes[0].y, 0.02) << "shares of a window fill it";
  EXPECT_EQ(boxes[4].hover, "epoch 1: a expert (paused) 1 of 2 steps, 50.00 %");

  const TeacherTimeline steps = teacher_timeline(run, 4);
  ASSERT_EQ(steps.windows.size(), 2u);
  EXPECT_EQ(steps.windows[0].networks[1].taught, 2);
  EXPECT_EQ(steps.windows[1].steps, 2);
  EXPECT_EQ(steps.windows[1].last, 6);
  EXPECT_EQ(teacher_charts(steps)[0].options.x_label, "step");
}

class Charts : public testing::Test {
 protected:
  static void train(const TemporaryFolder& folder, const std::string& method, const std::string& out) {
    const RunResult result = run_cohort({"train",
                                         "--method",
                                         method,
                                         "--net",
                                         "resnet8:id=x",
                                         "--net",
                                         "resnet8:id=y,lr=0.02",
                                         "--epochs",
                                         "3",
                                         "-s",
                                         "data.size=8",
                                         "-s",
                                         "data.train_images=120",
                                         "-s",
                                         "data.test_images=50",
                                         "--batch-size",
                                         "12",
                                         "--threads",
                                         "1",
                                         "--out",
                                         out},
                                        folder.path());
    ASSERT_EQ(result.code, 0) << result.err;
  }
};

TEST_F(Charts, CalibrationOfARunIsThatOfItsEvaluation) {
  const TemporaryFolder folder;
  train(folder, "dml", "run");
  const RunResult result =
      run_cohort({"inspect", "calibration", "run", "-o", "c.svg", "--json"}, folder.path());
  ASSERT_EQ(result.code, 0) << result.err;
  const json answer = json::parse(result.out);
  const json eval =
      json::parse(run_cohort({"eval", "run", "--checkpoint", "last", "--json"}, folder.path()).out);
  const std::string svg = read_text(folder / "c.svg");
  const std::string report = read_text(folder / "run/report.html");
  ASSERT_EQ(answer["nets"].size(), 3u);
  for (std::size_t k = 0; k < 3; ++k) {
    const json& net = answer["nets"][k];
    EXPECT_EQ(net["ece"], eval["nets"][k]["ece"]);
    double samples = 0, correct = 0, ece = 0;
    for (std::size_t i = 0; i < 15; ++i) {
      const double n = net["bins"]["samples"][i], right = net["bins"]["correct"][i];
      samples += n;
      correct += right;
      ece += std::abs(n * net["bins"]["confidence"][i].get<double>() - right);
    }
    EXPECT_EQ(samples, 50);
    EXPECT_EQ(correct / samples, net["top1"]);
    EXPECT_NEAR(ece / samples, net["ece"], 1e-12);
    char caption[64];
    std::snprintf(caption, sizeof caption, "ECE %.4f; 50 images", net["ece"].get<double>());
    EXPECT_THAT(svg, HasSubstr(caption));
    EXPECT_THAT(report, HasSubstr(caption)) << "the report draws the last evaluation, which is this one";
  }
  EXPECT_THAT(svg, HasSubstr("Calibration on test images of shapes, checkpoint last"));
  EXPECT_THAT(report, Not(HasSubstr("Who teaches")));
  const RunResult val =
      run_cohort({"inspect", "calibration", "run", "--split", "val", "--checkpoint", "best"}, folder.path());
  EXPECT_EQ(val.code, 0) << val.err;
  EXPECT_THAT(val.out, HasSubstr("0.933 to 1.000"));
  EXPECT_THAT(val.out, HasSubstr("calibration.svg"));

  const auto code = [&](std::vector<std::string> words) {
    words.insert(words.begin(), "inspect");
    return run_cohort(words, folder.path()).code;
  };
  EXPECT_EQ(code({"calibration", "run", "--split", "tset"}), 2);
  EXPECT_EQ(code({"calibration", "run", "--checkpoint", "first"}), 2);
  EXPECT_EQ(code({"calibration", "run", "-o", "c.png"}), 2);
  EXPECT_EQ(code({"calibration", "run", "-o", "no/such/folder/c.svg"}), 4);
  EXPECT_EQ(code({"calibration", "nothing"}), 3);
  const RunResult none = run_cohort({"inspect", "teachers", "run"}, folder.path());
  EXPECT_EQ(none.code, 2);
  EXPECT_THAT(none.err, HasSubstr("dml, does not decide from batch to batch who teaches"));
  EXPECT_FALSE(std::filesystem::exists(folder / "teachers.svg"));
  std::filesystem::remove_all(folder / "run/checkpoints");
  EXPECT_EQ(code({"calibration", "run"}), 3) << "no checkpoint";
}

TEST_F(Charts, TeachersOfARunAreThoseOfItsRecords) {
  const TemporaryFolder folder;
  train(folder, "competitive", "cd");
  train(folder, "switokd", "swit");
  std::map<std::string, int> taught, expert, learning;
  for (const char* run : {"cd", "swit"}) {
    std::ifstream log(folder / run / "metrics.jsonl");
    for (std::string line; std::getline(log, line);) {
      const json record = json::parse(line);
      if (record["kind"] != "step" || record["net"] != "x") continue;
      if (record.contains("teacher")) ++taught[record["teacher"]];
      if (record.contains("mode")) ++(record["mode"] == "expert" ? expert : learning)["x"];
    }
  }
  ASSERT_EQ(taught["x"] + taught["y"], 30);
  ASSERT_EQ(expert["x"] + learning["x"], 30);

  const auto answer = [&](std::vector<std::string> more) {
    std::vector<std::string> words = {"inspect", "teachers", "--json", "-o", "t.svg"};
    words.insert(words.end(), more.begin(), more.end());
    const RunResult result = run_cohort(words, folder.path());
    EXPECT_EQ(result.code, 0) << result.err;
    return json::parse(result.out);
  };
  std::map<std::string, int> told;
  const json epochs = answer({"cd"});
  EXPECT_EQ(epochs["unit"], "epoch");
  ASSERT_EQ(epochs["windows"].size(), 3u);
  for (const json& window : epochs["windows"]) {
    EXPECT_EQ(window["steps"], 10);
    for (const json& net : window["nets"]) told[net["id"]] += net["taught"].get<int>();
  }
  EXPECT_EQ(told["x"], taught["x"]);
  EXPECT_EQ(told["y"], taught["y"]);
  EXPECT_THAT(read_text(folder / "t.svg"), HasSubstr("30 steps: x taught"));
  EXPECT_THAT(read_text(folder / "cd/report.html"), HasSubstr("30 steps: x taught"));

  const json modes = answer({"swit", "--window", "10"});
  ASSERT_EQ(modes["windows"].size(), 3u);
  int paused = 0;
  for (const json& window : modes["windows"]) paused += window["nets"][0]["expert"].get<int>();
  EXPECT_EQ(paused, expert["x"]);
  EXPECT_FALSE(modes["windows"][0]["nets"][1].contains("expert")) << "a student has no mode";
  EXPECT_THAT(read_text(folder / "swit/report.html"), HasSubstr("Modes of the teacher x"));
  EXPECT_EQ(run_cohort({"inspect", "teachers", "cd", "--window", "0"}, folder.path()).code, 2);
  EXPECT_EQ(run_cohort({"inspect", "teachers", "none"}, folder.path()).code, 3);
  std::filesystem::remove(folder / "cd/metrics.jsonl");
  EXPECT_EQ(run_cohort({"inspect", "teachers", "cd"}, folder.path()).code, 3);
}

}  // namespace
}  // namespace cohort::tools
