#include "distill/evaluation.h"

#include <algorithm>
#include <cmath>

namespace cohort::distill {
namespace {

// Sums over samples of what Scores averages.
class Accumulator {
 public:
  // `p` are probabilities; `log_p` is ln p[label].
  int add(std::span<const double> p, int label, double log_p) {
    const double own = p[static_cast<std::size_t>(label)];
    int best = 0, before = 0;
    bool nan = false;
    for (std::size_t c = 0; c < p.size(); ++c) {
      nan = nan || std::isnan(p[c]);
      if (p[c] > p[static_cast<std::size_t>(best)]) best = static_cast<int>(c);
      if (p[c] > own || (p[c] == own && static_cast<int>(c) < label)) ++before;
    }
    const bool right = !nan && best == label;
    const double confidence = p[static_cast<std::size_t>(best)];
    loss_ -= log_p;
    top1_ += right ? 1 : 0;
    top5_ += !nan && before < 5 ? 1 : 0;
    if (!nan) {
      const auto bin = static_cast<std::size_t>(std::clamp(
          static_cast<int>(std::ceil(confidence * kCalibrationBins)) - 1, 0, kCalibrationBins - 1));
      ++bins_[bin].samples;
      bins_[bin].correct += right ? 1 : 0;
      bins_[bin].confidence += confidence;
    }
    return nan ? -1 : best;
  }

  Scores mean(double samples) const {
    Scores s{loss_ / samples, static_cast<double>(top1_) / samples, static_cast<double>(top5_) / samples, 0};
    s.bins = bins_;
    for (CalibrationBin& bin : s.bins) {
      s.ece += std::abs(bin.confidence - static_cast<double>(bin.correct)) / samples;
      bin.confidence /= static_cast<double>(std::max<std::int64_t>(bin.samples, 1));
    }
    return s;
  }

 private:
  double loss_ = 0;
  std::int64_t top1_ = 0, top5_ = 0;
  std::array<CalibrationBin, kCalibrationBins> bins_{};  // confidence: the sum
};

}  // namespace

CohortScores score(std::span<const std::vector<float>> logits, std::span<const std::int32_t> labels,
                   int num_classes) {
  const std::size_t m = logits.size(), n = labels.size(), c = static_cast<std::size_t>(num_classes);
  std::vector<Accumulator> sums(m + 1);
  std::vector<double> p(c), mean(c);
  std::int64_t agreed = 0;
  for (std::size_t i = 0; i < n; ++i) {
    std::fill(mean.begin(), mean.end(), 0.0);
    int common = -2;
    bool all_agree = true;
    for (std::size_t k = 0; k < m; ++k) {
      const float* z = logits[k].data() + i * c;
      const double largest = static_cast<double>(*std::max_element(z, z + c));
      double total = 0;
      for (std::size_t j = 0; j < c; ++j) total += p[j] = std::exp(static_cast<double>(z[j]) - largest);
      for (std::size_t j = 0; j < c; ++j) {
        p[j] /= total;
        mean[j] += p[j] / static_cast<double>(m);
      }
      const double log_p = static_cast<double>(z[labels[i]]) - largest - std::log(total);
      const int predicted = sums[k].add(p, labels[i], log_p);
      all_agree = all_agree && (k == 0 || predicted == common) && predicted >= 0;
      common = predicted;
    }
    agreed += all_agree ? 1 : 0;
    sums[m].add(mean, labels[i], std::log(mean[static_cast<std::size_t>(labels[i])]));
  }
  CohortScores scores;
  const double samples = static_cast<double>(std::max<std::size_t>(n, 1));
  for (std::size_t k = 0; k < m; ++k) scores.members.push_back(sums[k].mean(samples));
  scores.ensemble = sums[m].mean(samples);
  scores.agreement = static_cast<double>(agreed) / samples;
  scores.samples = static_cast<std::int64_t>(n);
  return scores;
}

}  // namespace cohort::distill
