// Whether draws have the distribution that they should have: Pearson's chi-square for counts, Kolmogorov's
// and Smirnov's distance for values, both at one false alarm in a million (and seeds are fixed, so a case
// that passes once passes for ever). They answer rather than assert, so that tests can show that a skew is
// found.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

namespace cohort::test {

inline double chi_square(const std::vector<int>& counts, const std::vector<double>& shares) {
  const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
  double sum = 0.0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double expected = total * shares[i];
    sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return sum;
}

// The quantile by Wilson and Hilferty.
inline double chi_square_limit(double freedom) {
  const double v = 2 / (9 * freedom);
  return freedom * std::pow(1 - v + 4.75 * std::sqrt(v), 3.0);
}

inline bool counts_fit(const std::vector<int>& counts, const std::vector<double>& shares) {
  return chi_square(counts, shares) < chi_square_limit(static_cast<double>(counts.size() - 1));
}

inline bool counts_are_uniform(const std::vector<int>& counts) {
  return counts_fit(counts, std::vector<double>(counts.size(), 1.0 / static_cast<double>(counts.size())));
}

// `cdf` ascends from 0 to 1; for a discrete value it is the chance of at most it, and `below` of less.
template <class Cdf, class Below>
bool values_fit(std::vector<double> values, Cdf cdf, Below below) {
  std::sort(values.begin(), values.end());
  const double n = static_cast<double>(values.size());
  double distance = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    // Equal values are one step of the sample's own distribution.
    if (i == 0 || values[i] != values[i - 1])
      distance = std::max(distance, std::abs(below(values[i]) - static_cast<double>(i) / n));
    if (i + 1 == values.size() || values[i] != values[i + 1])
      distance = std::max(distance, std::abs(cdf(values[i]) - static_cast<double>(i + 1) / n));
  }
  return distance < 2.69 / std::sqrt(n);
}

template <class Cdf>
bool values_fit(std::vector<double> values, Cdf cdf) {
  return values_fit(std::move(values), cdf, cdf);
}

inline bool values_are_uniform(std::vector<double> values, double low, double high) {
  return values_fit(std::move(values),
                    [=](double x) { return std::clamp((x - low) / (high - low), 0.0, 1.0); });
}

// Whether the two are independent: their ranks fall evenly into a table of kParts x kParts.
inline bool are_independent(const std::vector<double>& a, const std::vector<double>& b) {
  constexpr std::size_t kParts = 5;
  const auto parts = [](const std::vector<double>& values) {
    std::vector<std::size_t> order(values.size()), part(values.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t i, std::size_t j) { return values[i] < values[j]; });
    for (std::size_t rank = 0; rank < order.size(); ++rank) part[order[rank]] = rank * kParts / order.size();
    return part;
  };
  const std::vector<std::size_t> pa = parts(a), pb = parts(b);
  std::vector<int> counts(kParts * kParts, 0);
  for (std::size_t i = 0; i < pa.size(); ++i) ++counts[pa[i] * kParts + pb[i]];
  const std::vector<double> shares(counts.size(), 1.0 / static_cast<double>(counts.size()));
  return chi_square(counts, shares) < chi_square_limit(static_cast<double>((kParts - 1) * (kParts - 1)));
}

}  // namespace cohort::test
