#include "kernels/weighted_target.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/cohort_case.h"

namespace cohort::test {
namespace {

using kernels::MixRule;

std::size_t workspace_on(const Place& place, [[maybe_unused]] const kernels::CohortLossShape& shape) {
  if (place.device == Device::kCpu) return kernels::weighted_target_workspace(place.cpu, shape);
  if constexpr (kHasDevice) return kernels::weighted_target_workspace(CudaStream{}, shape);
  return 0;
}

template <class T>
struct Mix {
  using A = Accumulator<T>;

  CohortCase<T> c;
  std::vector<A> weights;
  MixRule rule = MixRule::kLogits;
  double temperature = 2;
  std::int32_t valid = -1;

  bool per_row() const { return weights.size() != static_cast<std::size_t>(c.members); }

  std::vector<A> run(Place place) const {
    OnDevice on(place);
    kernels::WeightedTargetArgs args{.shape = {dtype_of<T>(), c.members, c.rows, c.classes}};
    for (std::size_t m = 0; m < c.logits.size(); ++m) args.logits[m] = on(c.logits[m]);
    args.weights = on(weights);
    args.per_row = per_row();
    args.rule = rule;
    args.temperature = temperature;
    args.valid_rows = valid < 0 ? nullptr : on(valid);
    Guarded<A> target(static_cast<std::size_t>(c.rows * c.classes), c.misalign);
    args.target = on(target);
    Scratch scratch(workspace_on(place, args.shape));
    const Workspace workspace = on(scratch);
    on.run([&](auto stream) { kernels::weighted_target(stream, args, workspace); });
    EXPECT_TRUE(target.intact() && scratch.intact());
    return target.values();
  }

  // Plain loops in double, and beside each number its admissible error.
  void reference(std::vector<double>& target, std::vector<double>& tol) const {
    const double u = unit_roundoff(dtype_of<A>());
    const auto at = [](int i, int j, int width) { return static_cast<std::size_t>(i * width + j); };
    for (int b = 0; b < c.rows; ++b) {
      const bool counts = valid < 0 || b < valid;
      std::vector<double> r(static_cast<std::size_t>(c.classes), 0), size = r;
      const auto softmax = [&](std::vector<double> z) {
        const double max = *std::max_element(z.begin(), z.end());
        double sum = 0;
        for (double& v : z) sum += v = std::exp((v - max) / temperature);
        for (double& v : z) v /= sum;
        return z;
      };
      for (int m = 0; m < c.members; ++m) {
        const double w = static_cast<double>(weights[per_row() ? at(b, m, c.members) : at(0, m, 1)]);
        std::vector<double> z;
        for (int k = 0; k < c.classes; ++k)
          z.push_back(static_cast<double>(c.logits[at(m, 0, 1)][at(b, k, c.classes)]));
        if (rule == MixRule::kProbabilities) z = softmax(z);
        for (std::size_t k = 0; k < z.size(); ++k) {
          r[k] += w * z[k];
          size[k] += std::abs(w * z[k]);
        }
      }
      if (rule == MixRule::kLogits) {
        r = softmax(r);
      } else {
        double sum = 0;
        for (double& v : r) sum += v = std::max(0.0, v);
        for (double& v : r) v /= sum;
      }
      const double largest = *std::max_element(size.begin(), size.end());
      for (std::size_t k = 0; k < r.size(); ++k) {
        target.push_back(counts ? r[k] : 0);
        // Of a logit: its size in roundings, into the exponent. Of a probability: relative to what was added.
        const double relative = 4 * (8 + sum_factor(c.classes, 4) + (rule == MixRule::kLogits ? largest : 0));
        tol.push_back(u * relative * (rule == MixRule::kLogits ? r[k] : size[k] + r[k]) +
                      tiny(dtype_of<A>()));
      }
    }
  }
};

template <class Param>
class WeightedTarget : public TypedDeviceTest<Param> {};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(WeightedTarget, Types, DeviceNames);

TYPED_TEST(WeightedTarget, AgreesWithItsFormula) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  Random rng(base_seed());
  for (const int classes : {1, 2, 3, 7, 31, 33, 100}) {
    for (const auto rule : {MixRule::kLogits, MixRule::kProbabilities}) {
      const int members = 1 + classes % 4;
      const int rows = classes == 33 ? 7 : 3;
      Mix<T> mix{CohortCase<T>::random(members, rows, classes, rng), {}, rule};
      mix.c.misalign = static_cast<std::size_t>(classes % 3);
      const bool per_row = classes % 2 == 1;
      mix.weights = rng.uniforms<A>(static_cast<std::size_t>(per_row ? members * rows : members), 0, 1);
      mix.valid = classes == 7 ? 2 : -1;
      std::vector<double> target, tol;
      mix.reference(target, tol);
      for_each_place(TypeParam::device, [&](Place place) {
        EXPECT_TRUE(all_within(mix.run(place), target, [&](std::size_t i) { return tol[i]; }))
            << classes << " classes, rule " << static_cast<int>(rule);
      });
    }
  }
}

// The mean of two members' logits, and the probability ensemble of KDCL-General's golden weights.
TYPED_TEST(WeightedTarget, Golden) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  if (std::is_same_v<T, bf16>) GTEST_SKIP() << "the golden logits are no bf16 numbers";
  Mix<T> mix{golden_case<T>(2), {static_cast<A>(0.5), static_cast<A>(0.5)}};
  const double tol = std::is_same_v<T, double> ? 2e-6 : 1e-5;
  EXPECT_TRUE(all_near(mix.run(TypeParam::device),
                       std::vector<double>{0.470498, 0.264751, 0.264751, 0.289240, 0.442419, 0.268341}, tol));
  mix.weights = {static_cast<A>(0.576413), static_cast<A>(0.423587)};
  mix.rule = MixRule::kProbabilities;
  EXPECT_TRUE(all_near(mix.run(TypeParam::device),
                       std::vector<double>{0.458903, 0.275081, 0.266016, 0.325814, 0.417702, 0.256485}, tol));
}

TYPED_TEST(WeightedTarget, ExtremeLogitsAndSickMembers) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  const T nan = static_cast<T>(std::numeric_limits<float>::quiet_NaN());
  const T huge = static_cast<T>(1e38F);
  for (const auto rule : {MixRule::kLogits, MixRule::kProbabilities}) {
    Mix<T> mix{CohortCase<T>(2, 3, 2), {A{1}, A{0}}, rule};
    const T zero{}, one = static_cast<T>(1.0F), two = static_cast<T>(2.0F);
    mix.c.logits = {{huge, static_cast<T>(-1e38F), one, one, one, one}, {zero, zero, two, two, nan, zero}};
    const std::vector<A> target = mix.run(TypeParam::device);
    EXPECT_EQ(target[0], A{1});
    EXPECT_EQ(target[1], A{0});
    EXPECT_EQ(target[2], static_cast<A>(0.5));
    EXPECT_TRUE(std::isnan(target[4]) && std::isnan(target[5])) << "of weight 0, but sick";
  }
}

// Weights of either sign: what falls below 0 is cut off, the rest sums to 1.
TYPED_TEST(WeightedTarget, NegativeWeightsLeaveADistribution) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  Mix<T> mix{
      CohortCase<T>(2, 1, 2), {static_cast<A>(2.25), static_cast<A>(-1.25)}, MixRule::kProbabilities, 1};
  mix.c.logits = {{T{}, T{}}, {static_cast<T>(3.0F), static_cast<T>(-3.0F)}};
  EXPECT_EQ(mix.run(TypeParam::device), (std::vector<A>{A{0}, A{1}}));
}

class WeightedTargetContract : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(WeightedTargetContract);

TEST_P(WeightedTargetContract, RefusesWhatItCannotDo) {
  float value = 0;
  const auto refused = [&](kernels::WeightedTargetArgs args) {
    OnDevice on(GetParam());
    std::vector<std::byte> memory(4096);
    args.logits[0] = &value;
    EXPECT_THROW(on.run([&](auto stream) { kernels::weighted_target(stream, args, memory); }), Error);
  };
  refused({.shape = {DType::f32, 0, 1, 1}, .weights = &value, .target = &value});
  refused({.shape = {DType::f32, 1, 1, 1}, .target = &value});
  refused({.shape = {DType::f32, 1, 1, 1}, .weights = &value, .temperature = 0, .target = &value});
  refused({.shape = {DType::f32, 1, 1, 0}, .weights = &value, .target = &value});
}

}  // namespace
}  // namespace cohort::test
