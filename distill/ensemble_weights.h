// Weights of an ensemble from how its members err together on held-out images (KDCL-General; Guo et al.,
// "Online knowledge distillation via collaborative learning", CVPR 2020, eq. 9 to 12). Host arithmetic in
// double, a few hundred numbers per epoch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cohort::distill {

enum class ErrorMeasure {
  kProbability,  // C_ij = mean (f_i - 1)(f_j - 1), f_i the probability that i gives the label
  kCrossEntropy  // C_ij = mean g_i g_j, g_i the cross-entropy
};

// (M, M), from (images, classes) logits per member at temperature 1.
std::vector<double> error_correlation(std::span<const std::vector<float>> logits,
                                      std::span<const std::int32_t> labels, int classes,
                                      ErrorMeasure measure);

enum class WeightRule {
  kSimplex,  // minimise w' C w over w >= 0, sum w = 1
  kClip,     // the closed form, negative weights set to 0, the others scaled to sum 1
  kAllow     // the closed form C^-1 1 / (1' C^-1 1): nothing keeps it in [0, 1]
};

// The weights of M members. A singular C (identical networks, fewer images than members) gets a ridge of
// 1e-6 trace(C) / M; where trace(C) < 1e-12 all weights are 1 / M. Empty where C is not finite.
std::vector<double> ensemble_weights(const std::vector<double>& c, int members, WeightRule rule);

}  // namespace cohort::distill
