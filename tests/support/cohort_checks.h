// Cases of the cohort loss with every option at random, and what is demanded of a result.
#pragma once

#include <numeric>
#include <span>

#include "tests/support/cohort_reference.h"

namespace cohort::test {

// A case with every option at random.
template <class T>
CohortCase<T> draw_case(int members, int rows, int classes, std::uint64_t seed) {
  using A = Accumulator<T>;
  Random rng(seed);
  auto c = CohortCase<T>::random(members, rows, classes, rng, rng.uniform(0.5, 5));
  const double temperatures[] = {1, 1, 2, 3, 0.5, 20};
  c.temperature = temperatures[rng.integer(0, 5)];
  c.t_squared = rng.chance(0.8);
  c.attached = rng.chance(0.2);
  c.all_pairs = rng.chance(0.2);
  c.rule = static_cast<kernels::TargetRule>(rng.integer(0, 3));
  for (A& v : c.ce_weight) v = static_cast<A>(rng.chance(0.2) ? 0 : rng.uniform(0, 2));
  for (A& v : c.kl_weight) v = static_cast<A>(rng.chance(0.3) ? 0 : rng.uniform(0, 2));
  for (A& v : c.target_weight) v = static_cast<A>(rng.chance(0.3) ? 0 : rng.uniform(0, 2));
  if (c.rule == kernels::TargetRule::kGiven) {
    c.given = rng.uniforms<A>(static_cast<std::size_t>(rows * classes), 0.01, 1);
    for (int b = 0; b < rows; ++b) {
      const auto row = std::span(c.given).subspan(static_cast<std::size_t>(b * classes),
                                                  static_cast<std::size_t>(classes));
      const A sum = std::accumulate(row.begin(), row.end(), A{0});
      for (A& v : row) v /= sum;
    }
  }
  if (rng.chance(0.4)) {
    c.mixed_member = rng.integer(0, members - 1);
    c.mixed_labels = rng.integers<std::int32_t>(static_cast<std::size_t>(rows * 4), 0, classes - 1);
    c.mixed_weights = rng.uniforms<A>(static_cast<std::size_t>(rows * 4), 0, 0.5);
  }
  if (rng.chance(0.3)) c.valid = rng.integer(0, rows);
  if (rng.chance(0.3)) {
    for (int m = 0; m < members; ++m) {
      c.accumulate.push_back(rng.normals<T>(static_cast<std::size_t>(rows * classes), 0, 0.1));
    }
  }
  c.misalign = static_cast<std::size_t>(rng.integer(0, 3));
  return c;
}

template <class T>
void expect_matches(const CohortCase<T>& c, const typename CohortCase<T>::Result& actual) {
  const CohortReference expected = reference(c);
  const double u = unit_roundoff(accumulator_of(dtype_of<T>()));
  for (std::size_t m = 0; m < actual.grad.size(); ++m) {
    EXPECT_TRUE(
        all_within(actual.grad[m], expected.grad[m], [&](std::size_t x) { return expected.grad_tol[m][x]; }))
        << "gradient of member " << m;
  }
  EXPECT_TRUE(all_within(actual.loss, expected.loss, [&](std::size_t m) {
    return expected.loss_tol[m] + 4 * u * std::abs(expected.loss[m]);
  }));
  // Unweighted values: bounded by the classes' largest |log p| instead of a term-by-term bound.
  const auto coarse = [&](double v) {
    return 200 * u * (1 + std::abs(v)) * (1 + c.temperature * c.temperature);
  };
  EXPECT_TRUE(all_within(actual.ce, expected.ce, [&](std::size_t m) { return coarse(expected.ce[m]); }));
  EXPECT_TRUE(all_within(actual.ce_rows, expected.ce_rows,
                         [&](std::size_t m) { return coarse(expected.ce_rows[m]); }));
  EXPECT_TRUE(all_within(actual.kl, expected.kl, [&](std::size_t m) { return coarse(expected.kl[m]); }));
  EXPECT_TRUE(all_within(actual.kl_pair, expected.kl_pair,
                         [&](std::size_t m) { return coarse(expected.kl_pair[m]); }));
  EXPECT_TRUE(all_within(actual.target_kl, expected.target_kl,
                         [&](std::size_t m) { return coarse(expected.target_kl[m]); }));
  if (c.rule != kernels::TargetRule::kNone) {
    EXPECT_TRUE(all_within(actual.target, expected.target,
                           [&](std::size_t x) { return 200 * u * expected.target[x] + 1e-30; }));
    EXPECT_EQ(actual.winner, expected.winner);
  }
  EXPECT_EQ(actual.top1, expected.top1);
  EXPECT_EQ(actual.top5, expected.top5);
}

// Every output, to the bit.
template <class Result>
void expect_same_bits(const Result& a, const Result& b) {
  for (std::size_t m = 0; m < a.grad.size(); ++m) {
    EXPECT_TRUE(same_bits(a.grad[m], b.grad[m])) << "gradient of member " << m;
  }
  EXPECT_TRUE(same_bits(a.loss, b.loss));
  EXPECT_TRUE(same_bits(a.ce, b.ce));
  EXPECT_TRUE(same_bits(a.kl, b.kl));
  EXPECT_TRUE(same_bits(a.kl_pair, b.kl_pair));
  EXPECT_TRUE(same_bits(a.target_kl, b.target_kl));
  EXPECT_TRUE(same_bits(a.ce_rows, b.ce_rows));
  EXPECT_TRUE(same_bits(a.target, b.target));
  EXPECT_TRUE(same_bits(a.weights, b.weights));
  EXPECT_TRUE(same_bits(a.feature_weights, b.feature_weights));
  EXPECT_EQ(a.winner, b.winner);
  EXPECT_EQ(a.top1, b.top1);
  EXPECT_EQ(a.top5, b.top5);
  EXPECT_EQ(a.teacher, b.teacher);
  EXPECT_EQ(a.row_winner, b.row_winner);
}

}  // namespace cohort::test
