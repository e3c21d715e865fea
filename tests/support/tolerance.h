// Admissible errors, computed from the operation and never typed in, and the comparisons that use them.
//
// For r = sum_{i<n} a_i b_i summed on L lanes, with chain k = ceil(n/L), tree depth t = ceil(log2 L) and
// S = sum |a_i b_i| taken from the reference, per element:
//
//   tol = (2 u_in + 4 (sqrt(k) + t + 2) u_acc) S + u_out |r| + tiny(out)
//
// u_in only where operands are rounded down. Factor 4 is the only fitted constant.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "kernels/base/dtype.h"

namespace cohort::test {

// Half the distance from 1 to the next number: the largest relative error of one rounding to nearest.
constexpr double unit_roundoff(DType dtype) {
  return dtype == DType::f64 ? 0x1p-53 : dtype == DType::f32 ? 0x1p-24 : 0x1p-8;
}

constexpr double tiny(DType dtype) {
  return dtype == DType::f64 ? 0x1p-1022 : 0x1p-126;
}

// The factor of S above: of the accumulator's roundoff alone.
inline double sum_factor(std::int64_t n, int lanes) {
  const double chain = std::ceil(static_cast<double>(std::max<std::int64_t>(n, 1)) / lanes);
  const double depth = std::ceil(std::log2(static_cast<double>(lanes)));
  return 4 * (std::sqrt(chain) + depth + 2);
}

struct SumTolerance {
  DType out = DType::f32;         // dtype of the stored result; its accumulator_of is the accumulator
  std::int64_t n = 1;             // terms
  int lanes = 1;                  // partial sums; 1 is the most generous
  bool operands_rounded = false;  // operands are rounded to `operands` before use
  DType operands = DType::bf16;
};

inline double tolerance(const SumTolerance& t, double abs_sum, double result) {
  const double u_in = t.operands_rounded ? 2 * unit_roundoff(t.operands) : 0;
  const double u_acc = unit_roundoff(accumulator_of(t.out));
  return (u_in + sum_factor(t.n, t.lanes) * u_acc) * abs_sum + unit_roundoff(t.out) * std::abs(result) +
         tiny(t.out);
}

// Equal within `tol`; NaN equals NaN, an infinity equals itself only.
inline bool within(double actual, double expected, double tol) {
  if (std::isnan(expected)) return std::isnan(actual);
  if (std::isinf(expected)) return actual == expected;
  return std::abs(actual - expected) <= tol;
}

// tol(i) is the admissible error of element i. Reports the worst element and the number of failures.
template <class Actual, class Expected, class Tol>
::testing::AssertionResult all_within(const Actual& actual, const Expected& expected, Tol tol) {
  if (std::size(actual) != std::size(expected)) {
    return ::testing::AssertionFailure() << "sizes " << std::size(actual) << " and " << std::size(expected);
  }
  std::size_t bad = 0;
  std::size_t worst = 0;
  double worst_ratio = -1;
  for (std::size_t i = 0; i < std::size(actual); ++i) {
    const double a = static_cast<double>(actual[i]);
    const double e = static_cast<double>(expected[i]);
    if (within(a, e, tol(i))) continue;
    ++bad;
    const double ratio = std::isfinite(a) && std::isfinite(e) ? std::abs(a - e) / tol(i) : HUGE_VAL;
    if (ratio > worst_ratio) {
      worst_ratio = ratio;
      worst = i;
    }
  }
  if (bad == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << bad << " of " << std::size(actual) << " elements differ; worst at " << worst << ": "
         << static_cast<double>(actual[worst]) << " instead of " << static_cast<double>(expected[worst])
         << ", " << worst_ratio << " times the tolerance " << tol(worst);
}

template <class Actual, class Expected>
::testing::AssertionResult all_near(const Actual& actual, const Expected& expected, double tol) {
  return all_within(actual, expected, [tol](std::size_t) { return tol; });
}

// Same bits, so that -0 differs from +0 and a NaN equals itself.
template <class T>
::testing::AssertionResult same_bits(std::span<const T> a, std::span<const T> b) {
  if (a.size() != b.size()) {
    return ::testing::AssertionFailure() << "sizes " << a.size() << " and " << b.size();
  }
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(T)) == 0) continue;
    return ::testing::AssertionFailure() << "bits differ at " << i << ": " << static_cast<double>(a[i])
                                         << " and " << static_cast<double>(b[i]);
  }
  return ::testing::AssertionSuccess();
}

template <class T>
::testing::AssertionResult same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return same_bits(std::span<const T>(a), std::span<const T>(b));
}

}  // namespace cohort::test
