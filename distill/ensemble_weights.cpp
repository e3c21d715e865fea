#include "distill/ensemble_weights.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/base/error.h"

namespace cohort::distill {
namespace {

// Solves A x = 1 for symmetric positive definite A (n, n) by Cholesky's factors. Empty where a pivot is not
// above `least_pivot`.
std::vector<double> solve_for_ones(std::vector<double> a, std::size_t n, double least_pivot) {
  const auto at = [&](std::size_t i, std::size_t j) -> double& { return a[i * n + j]; };
  std::vector<double> x(n, 1.0);
  for (std::size_t j = 0; j < n; ++j) {
    for (std::size_t i = j; i < n; ++i) {
      double sum = at(i, j);
      for (std::size_t k = 0; k < j; ++k) sum -= at(i, k) * at(j, k);
      if (i == j && !(sum > least_pivot)) return {};
      at(i, j) = i == j ? std::sqrt(sum) : sum / at(j, j);
    }
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t k = 0; k < i; ++k) x[i] -= at(i, k) * x[k];
    x[i] /= at(i, i);
  }
  for (std::size_t i = n; i-- > 0;) {
    for (std::size_t k = i + 1; k < n; ++k) x[i] -= at(k, i) * x[k];
    x[i] /= at(i, i);
  }
  return x;
}

void normalise(std::vector<double>& w) {
  const double sum = std::accumulate(w.begin(), w.end(), 0.0);
  for (double& v : w) v /= sum;
}

// The best vector lies inside some face of the simplex, where the closed form of that face's members gives
// it: all faces are tried (M <= 16, once per epoch), and the smallest value 1 / (1' C^-1 1) wins.
std::vector<double> on_simplex(const std::vector<double>& c, std::size_t m) {
  std::vector<double> best;
  double best_sum = 0;
  for (std::uint32_t face = 1; face < (std::uint32_t{1} << m); ++face) {
    std::vector<std::size_t> of;
    for (std::size_t i = 0; i < m; ++i) {
      if ((face >> i & 1) != 0) of.push_back(i);
    }
    std::vector<double> part;
    for (const std::size_t i : of) {
      for (const std::size_t j : of) part.push_back(c[i * m + j]);
    }
    const std::vector<double> x = solve_for_ones(part, of.size(), 0);
    if (x.empty() || *std::min_element(x.begin(), x.end()) < 0) continue;
    const double sum = std::accumulate(x.begin(), x.end(), 0.0);
    if (!(sum > best_sum)) continue;
    best_sum = sum;
    best.assign(m, 0.0);
    for (std::size_t k = 0; k < of.size(); ++k) best[of[k]] = x[k];
  }
  return best;
}

}  // namespace

std::vector<double> error_correlation(std::span<const std::vector<float>> logits,
                                      std::span<const std::int32_t> labels, int classes,
                                      ErrorMeasure measure) {
  const std::size_t m = logits.size();
  std::vector<double> c(m * m, 0.0), error(m);
  for (std::size_t b = 0; b < labels.size(); ++b) {
    for (std::size_t k = 0; k < m; ++k) {
      const float* z = logits[k].data() + b * static_cast<std::size_t>(classes);
      const double max = static_cast<double>(*std::max_element(z, z + classes));
      double sum = 0;
      for (int i = 0; i < classes; ++i) sum += std::exp(static_cast<double>(z[i]) - max);
      const double cross_entropy = std::log(sum) - (static_cast<double>(z[labels[b]]) - max);
      error[k] = measure == ErrorMeasure::kCrossEntropy ? cross_entropy : std::expm1(-cross_entropy);
    }
    for (std::size_t i = 0; i < m; ++i) {
      for (std::size_t j = 0; j < m; ++j) c[i * m + j] += error[i] * error[j];
    }
  }
  for (double& v : c) v /= static_cast<double>(labels.size());
  return c;
}

std::vector<double> ensemble_weights(const std::vector<double>& c, int members, WeightRule rule) {
  const auto m = static_cast<std::size_t>(members);
  check(members >= 1 && members <= 16 && c.size() == m * m, "ensemble_weights: C is (members, members)");
  double trace = 0;
  for (const double v : c) {
    if (!std::isfinite(v)) return {};
  }
  for (std::size_t i = 0; i < m; ++i) trace += c[i * m + i];
  if (trace < 1e-12) return std::vector<double>(m, 1.0 / static_cast<double>(m));
  const double mean = trace / static_cast<double>(m);
  std::vector<double> regular = c;
  // Eleven digits are lost before a pivot is this small.
  std::vector<double> w = solve_for_ones(c, m, 1e-10 * mean);
  if (w.empty()) {
    for (std::size_t i = 0; i < m; ++i) regular[i * m + i] += 1e-6 * mean;
    w = solve_for_ones(regular, m, 0);
    check(!w.empty(), "ensemble_weights: a correlation matrix that is not positive");
  }
  if (rule == WeightRule::kSimplex) w = on_simplex(regular, m);
  normalise(w);
  if (rule == WeightRule::kClip) {
    for (double& v : w) v = std::max(v, 0.0);
    normalise(w);
  }
  return w;
}

}  // namespace cohort::distill
