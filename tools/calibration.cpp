#include "tools/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace cohort::tools {
namespace {

using distill::CalibrationBin;
using distill::kCalibrationBins;

constexpr int kAccuracyColor = 0;
constexpr int kGapColor = 1;
constexpr int kDiagonalColor = 7;

double accuracy(const CalibrationBin& bin) {
  return static_cast<double>(bin.correct) / static_cast<double>(bin.samples);
}

std::string caption_of(const CalibrationBins& bins, double ece) {
  std::int64_t samples = 0, correct = 0;
  double confidence = 0;
  for (const CalibrationBin& bin : bins) {
    samples += bin.samples;
    correct += bin.correct;
    confidence += bin.confidence * static_cast<double>(bin.samples);
  }
  if (samples == 0) return "no image has a finite prediction";
  const double all = static_cast<double>(samples);
  return fmt::format("ECE {:.4f}; {} images, right {:.2f} %, mean confidence {:.2f} %", ece, samples,
                     100 * static_cast<double>(correct) / all, 100 * confidence / all);
}

// The newest record of the network that has bins, and of which images.
struct Found {
  CalibrationBins bins;
  double ece, epoch;
  const char* part;
};
std::optional<Found> newest(const RunRecords& run, const std::string& id) {
  for (const char* part : {"test", "val"}) {
    for (auto record = run.epochs.rbegin(); record != run.epochs.rend(); ++record) {
      if (text_in(*record, "net") != id || !record->contains(part) || !(*record)[part].is_object()) continue;
      const Json& scores = (*record)[part];
      const auto bins = bins_from(scores.contains("bins") ? scores["bins"] : Json());
      if (bins) return Found{*bins, number_in(scores, "ece"), number_in(*record, "epoch"), part};
    }
  }
  return std::nullopt;
}

}  // namespace

Json bins_json(const CalibrationBins& bins) {
  Json json = {{"samples", Json::array()}, {"correct", Json::array()}, {"confidence", Json::array()}};
  for (const CalibrationBin& bin : bins) {
    json["samples"].push_back(bin.samples);
    json["correct"].push_back(bin.correct);
    json["confidence"].push_back(bin.confidence);
  }
  return json;
}

std::optional<CalibrationBins> bins_from(const Json& bins) {
  CalibrationBins result{};
  if (!bins.is_object()) return std::nullopt;
  for (const char* key : {"samples", "correct", "confidence"}) {
    const auto list = bins.find(key);
    if (list == bins.end() || !list->is_array() || list->size() != result.size()) return std::nullopt;
    for (const Json& value : *list) {
      const bool whole = std::string_view(key) != "confidence";
      if (!value.is_number() || (whole && !value.is_number_integer())) return std::nullopt;
    }
  }
  for (std::size_t i = 0; i < result.size(); ++i) {
    result[i] = {bins["samples"][i].get<std::int64_t>(), bins["correct"][i].get<std::int64_t>(),
                 bins["confidence"][i].get<double>()};
    const bool usable = result[i].correct >= 0 && result[i].correct <= result[i].samples &&
                        result[i].confidence >= 0 && result[i].confidence <= 1;
    if (!usable) return std::nullopt;
  }
  return result;
}

Chart reliability_chart(const std::string& title, const CalibrationBins& bins, double ece) {
  Chart chart;
  chart.options = {.title = title,
                   .x_label = "confidence",
                   .y_label = "accuracy",
                   .caption = caption_of(bins, ece),
                   .x = ChartRange{0, 1},
                   .y = ChartRange{0, 1},
                   .whole_x = false};
  for (std::size_t i = 0; i < bins.size(); ++i) {
    const CalibrationBin& bin = bins[i];
    if (bin.samples == 0) continue;
    const double low = static_cast<double>(i) / kCalibrationBins;
    const double high = static_cast<double>(i + 1) / kCalibrationBins;
    const double right = accuracy(bin);
    const std::string hover = fmt::format(
        "confidence {:.3f} to {:.3f}: {} images, accuracy {:.4f}, mean confidence {:.4f}, gap {:+.4f}", low,
        high, bin.samples, right, bin.confidence, bin.confidence - right);
    chart.options.boxes.push_back({low, high, 0, right, kAccuracyColor, false, hover});
    chart.options.boxes.push_back({low, high, std::min(right, bin.confidence),
                                   std::max(right, bin.confidence), kGapColor, true, hover});
    chart.options.texts.push_back(
        {(low + high) / 2, std::max(right, bin.confidence), std::to_string(bin.samples)});
  }
  chart.series = {{"accuracy", {}, kAccuracyColor, false},
                  {"gap to confidence", {}, kGapColor, false},
                  {"calibrated", {{0, 0}, {1, 1}}, kDiagonalColor, true}};
  return chart;
}

std::vector<Chart> calibration_charts(const RunRecords& run) {
  std::vector<std::string> ids = run.network_ids();
  if (ids.size() > 1) ids.emplace_back("ens");
  std::vector<Chart> charts;
  for (const std::string& id : ids) {
    if (const auto found = newest(run, id)) {
      charts.push_back(reliability_chart(fmt::format("{} on {}, epoch {:.0f}", id, found->part, found->epoch),
                                         found->bins, found->ece));
    }
  }
  return charts;
}

}  // namespace cohort::tools
