// Reliability diagrams (Guo et al., On calibration of modern neural networks, ICML 2017): in 15 equal bins of
// confidence, how often the networks are right.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "distill/evaluation.h"
#include "tools/run_records.h"
#include "tools/svg_chart.h"

namespace cohort::tools {

using CalibrationBins = std::array<distill::CalibrationBin, distill::kCalibrationBins>;

// As metrics.jsonl keeps them: {"samples": [15], "correct": [15], "confidence": [15]}.
Json bins_json(const CalibrationBins& bins);
// Empty where the record has none, or none that can be used.
std::optional<CalibrationBins> bins_from(const Json& bins);

// Bars of accuracy, the gap to the mean confidence, the number of images above each; the caption has the
// sums.
Chart reliability_chart(const std::string& title, const CalibrationBins& bins, double ece);

// Of every network and the ensemble, as last evaluated: on the test set, or else on the held-out images.
std::vector<Chart> calibration_charts(const RunRecords& run);

}  // namespace cohort::tools
