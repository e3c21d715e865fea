#include "kernels/simplex_fit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/cohort_case.h"

namespace cohort::test {
namespace {

using kernels::FitScope;

std::size_t workspace_on(const Place& place, [[maybe_unused]] const kernels::CohortLossShape& shape) {
  if (place.device == Device::kCpu) return kernels::simplex_fit_workspace(place.cpu, shape);
  if constexpr (kHasDevice) return kernels::simplex_fit_workspace(CudaStream{}, shape);
  return 0;
}

template <class T>
std::vector<Accumulator<T>> fit(Place place, const CohortCase<T>& c, FitScope scope) {
  OnDevice on(place);
  kernels::SimplexFitArgs args{.shape = {dtype_of<T>(), c.members, c.rows, c.classes}, .scope = scope};
  for (std::size_t m = 0; m < c.logits.size(); ++m) args.logits[m] = on(c.logits[m]);
  args.labels = on(c.labels);
  args.valid_rows = c.valid < 0 ? nullptr : on(c.valid);
  Guarded<Accumulator<T>> weights(
      static_cast<std::size_t>(c.members * (scope == FitScope::kBatch ? 1 : c.rows)));
  args.weights = on(weights);
  Scratch scratch(workspace_on(place, args.shape));
  const Workspace workspace = on(scratch);
  on.run([&](auto stream) { kernels::simplex_fit(stream, args, workspace); });
  EXPECT_TRUE(weights.intact() && scratch.intact());
  return weights.values();
}

// Mean over [first, last) of the cross-entropy of the mixed logits, and its derivative by every weight.
template <class T>
double mixed_loss(const CohortCase<T>& c, int first, int last, const std::vector<double>& alpha,
                  std::vector<double>* slope = nullptr) {
  double total = 0;
  if (slope != nullptr) slope->assign(alpha.size(), 0);
  for (int b = first; b < last; ++b) {
    const auto z = [&](std::size_t m, int k) {
      return static_cast<double>(c.logits[m][static_cast<std::size_t>(b * c.classes + k)]);
    };
    std::vector<double> mix(static_cast<std::size_t>(c.classes), 0);
    for (std::size_t m = 0; m < alpha.size(); ++m) {
      for (int k = 0; k < c.classes; ++k) mix[static_cast<std::size_t>(k)] += alpha[m] * z(m, k);
    }
    double sum = 0;
    for (const double v : mix) sum += std::exp(v);
    const int y = c.labels[static_cast<std::size_t>(b)];
    total += std::log(sum) - mix[static_cast<std::size_t>(y)];
    for (std::size_t m = 0; slope != nullptr && m < alpha.size(); ++m) {
      for (int k = 0; k < c.classes; ++k)
        (*slope)[m] +=
            (std::exp(mix[static_cast<std::size_t>(k)]) / sum - (k == y)) * z(m, k) / (last - first);
    }
  }
  return total / (last - first);
}

// 200 halvings of the interval: the definition, and nothing of the kernel's method.
template <class T>
double bisection(const CohortCase<T>& c, int first, int last) {
  const auto d = [&](double a) {
    std::vector<double> slope;
    mixed_loss(c, first, last, {a, 1 - a}, &slope);
    return slope[0] - slope[1];
  };
  if (d(0) >= 0) return 0;
  if (d(1) <= 0) return 1;
  double low = 0, high = 1;
  for (int i = 0; i < 200; ++i) {
    const double middle = 0.5 * (low + high);
    (d(middle) < 0 ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

template <class Param>
class SimplexFit : public TypedDeviceTest<Param> {};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(SimplexFit, Types, DeviceNames);

TYPED_TEST(SimplexFit, Golden) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  if (std::is_same_v<T, bf16>) GTEST_SKIP() << "the golden logits are no bf16 numbers";
  const auto c = golden_case<T>(2);
  const double tol = std::is_same_v<T, double> ? 2e-6 : 1e-5;
  const std::vector<A> alpha = fit<T>(TypeParam::device, c, FitScope::kSample);
  EXPECT_TRUE(all_near(alpha, std::vector<double>{0.897037, 0.102963, 0.110951, 0.889049}, tol));
  EXPECT_TRUE(
      all_near(fit<T>(TypeParam::device, c, FitScope::kBatch), std::vector<double>{0.501573, 0.498427}, tol));
}

TYPED_TEST(SimplexFit, TwoMembersAsByBisection) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  Random rng(base_seed());
  const double tol = std::is_same_v<A, double> ? 1e-9 : 1e-6;
  int inside = 0;
  for (const int classes : {2, 3, 7, 31, 33, 100}) {
    auto c = CohortCase<T>::random(2, classes == 33 ? 33 : 5, classes, rng, classes == 7 ? 20 : 2);
    const std::vector<A> rows = fit<T>(TypeParam::device, c, FitScope::kSample);
    for (int b = 0; b < c.rows; ++b) {
      const double expected = bisection(c, b, b + 1);
      inside += expected > 0 && expected < 1;
      const auto i = static_cast<std::size_t>(2 * b);
      EXPECT_NEAR(static_cast<double>(rows[i]), expected, tol) << classes << " classes, row " << b;
      EXPECT_NEAR(static_cast<double>(rows[i + 1]), 1 - expected, tol);
    }
    const std::vector<A> batch = fit<T>(TypeParam::device, c, FitScope::kBatch);
    EXPECT_NEAR(static_cast<double>(batch[0]), bisection(c, 0, c.rows), tol) << classes;
  }
  EXPECT_GT(inside, 5) << "vertices alone prove little";
}

TYPED_TEST(SimplexFit, ManyMembersAreNearlyOptimal) {
  using T = typename TypeParam::Type;
  Random rng(base_seed());
  for (const int members : {1, 3, 5, 16}) {
    // Every step of the batch's search is a few block-wide sums, thread by thread.
    if (members == 16 && TypeParam::device != Device::kCpu && kEmulated) continue;
    const auto c = CohortCase<T>::random(members, 3, 10, rng, 1.5);
    for (const auto scope : {FitScope::kSample, FitScope::kBatch}) {
      const auto weights = fit<T>(TypeParam::device, c, scope);
      const int problems = scope == FitScope::kBatch ? 1 : c.rows;
      for (int p = 0; p < problems; ++p) {
        std::vector<double> alpha, slope;
        for (int m = 0; m < members; ++m)
          alpha.push_back(static_cast<double>(weights[static_cast<std::size_t>(p * members + m)]));
        EXPECT_NEAR(std::accumulate(alpha.begin(), alpha.end(), 0.0), 1, 1e-6);
        const bool batch = scope == FitScope::kBatch;
        mixed_loss(c, batch ? 0 : p, batch ? c.rows : p + 1, alpha, &slope);
        double gap = 0, least = slope[0];
        for (std::size_t m = 0; m < alpha.size(); ++m) {
          EXPECT_GE(alpha[m], 0);
          gap += alpha[m] * slope[m];
          least = std::min(least, slope[m]);
        }
        EXPECT_LT(gap - least, 1e-3) << members << " members: not within what 64 steps reach";
      }
    }
  }
}

TYPED_TEST(SimplexFit, AVertexIsExact) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  // Member 1 is better whatever the mixture, and by more the more of it.
  CohortCase<T> c(3, 1, 2);
  const T zero{}, one = static_cast<T>(1.0F);
  c.logits = {{zero, one}, {one, zero}, {zero, zero}};
  c.labels = {0};
  EXPECT_EQ(fit<T>(TypeParam::device, c, FitScope::kSample), (std::vector<A>{0, 1, 0}));
  EXPECT_EQ(fit<T>(TypeParam::device, c, FitScope::kBatch), (std::vector<A>{0, 1, 0}));
}

TYPED_TEST(SimplexFit, TiesSickRowsAndRowsThatDoNotCount) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  CohortCase<T> c(2, 4, 2);
  const T zero{}, one = static_cast<T>(1.0F), nan = static_cast<T>(std::numeric_limits<float>::quiet_NaN());
  c.logits = {{one, zero, zero, nan, one, zero, one, zero}, {one, zero, zero, zero, one, zero, one, zero}};
  c.labels = {0, 0, 5, 0};
  c.valid = 3;
  const std::vector<A> weights = fit<T>(TypeParam::device, c, FitScope::kSample);
  EXPECT_EQ(weights[0], A{1}) << "the same logits: the first member";
  EXPECT_EQ(weights[1], A{0});
  for (const std::size_t i : {2, 3, 4, 5}) EXPECT_TRUE(std::isnan(weights[i])) << i;
  EXPECT_EQ(weights[6], A{0});
  EXPECT_EQ(weights[7], A{0});
  for (const A w : fit<T>(TypeParam::device, c, FitScope::kBatch)) EXPECT_TRUE(std::isnan(w));
  c.valid = 0;
  EXPECT_EQ(fit<T>(TypeParam::device, c, FitScope::kBatch), (std::vector<A>{1, 0}));
}

TYPED_TEST(SimplexFit, SameBitsEverywhere) {
  using T = typename TypeParam::Type;
  Random rng(base_seed());
  const bool emulated = TypeParam::device != Device::kCpu && kEmulated;
  for (const auto scope : {FitScope::kSample, FitScope::kBatch}) {
    // Every step of the batch's search is a few block-wide sums, thread by thread: two members need few
    // steps.
    const int members = emulated && scope == FitScope::kBatch ? 2 : 3;
    const auto c = CohortCase<T>::random(members, emulated ? 9 : 17, 33, rng);
    const auto expected = fit<T>(TypeParam::device, c, scope);
    for_each_place(TypeParam::device,
                   [&](Place place) { EXPECT_TRUE(same_bits(fit<T>(place, c, scope), expected)); });
  }
}

class SimplexFitContract : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(SimplexFitContract);

TEST_P(SimplexFitContract, RefusesWhatItCannotDo) {
  float value = 0;
  const std::int32_t label = 0;
  const auto refused = [&](kernels::SimplexFitArgs args) {
    OnDevice on(GetParam());
    std::vector<std::byte> memory(4096);
    args.logits[0] = &value;
    EXPECT_THROW(on.run([&](auto stream) { kernels::simplex_fit(stream, args, memory); }), Error);
  };
  refused({.shape = {DType::f32, 17, 1, 1}, .labels = &label, .weights = &value});
  refused({.shape = {DType::f32, 1, 1, 1}, .weights = &value});
  refused({.shape = {DType::f32, 1, 1, 1}, .labels = &label});
  refused({.shape = {DType::f32, 1, 1, 0}, .labels = &label, .weights = &value});
}

}  // namespace
}  // namespace cohort::test
