// Accuracy and calibration from logits, in double on the host: one definition for training, `eval` and
// tables.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace cohort::distill {

// Samples whose largest probability lies in ((i - 1) / 15, i / 15]; rows with a NaN are in none.
struct CalibrationBin {
  std::int64_t samples = 0, correct = 0;
  double confidence = 0;  // mean of their largest probabilities
};
inline constexpr int kCalibrationBins = 15;

struct Scores {
  double loss = 0;  // mean cross-entropy
  double top1 = 0;  // share of samples, [0, 1]; the first largest logit decides, NaN is wrong
  double top5 = 0;
  double ece = 0;  // expected calibration error, 15 equal bins of confidence (Guo et al., ICML 2017)
  std::array<CalibrationBin, kCalibrationBins> bins = {};  // what ece sums up; not kept in checkpoints
};

struct CohortScores {
  std::vector<Scores> members;
  Scores ensemble;       // of the mean of the members' probabilities
  double agreement = 0;  // share of samples on which all members predict the same class
  std::int64_t samples = 0;
};

// logits[k]: (samples, classes) row-major; labels[i] belongs to row i.
CohortScores score(std::span<const std::vector<float>> logits, std::span<const std::int32_t> labels,
                   int num_classes);

}  // namespace cohort::distill
