#include "distill/ensemble_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace cohort::distill {
namespace {

using Values = std::vector<double>;
using test::all_near;

const std::vector<float> kZ1 = {2.0F, 1.2F, -0.5F, 0.9F, 0.6F, -0.8F};
const std::vector<float> kZ2 = {1.0F, -0.5F, 1.2F, -0.6F, 1.4F, 0.8F};
const std::vector<float> kZ3 = {1.5F, 0.3F, 0.2F, 0.1F, 1.2F, 0.4F};
const std::vector<std::int32_t> kLabels = {0, 1};

Values correlation(const std::vector<std::vector<float>>& logits,
                   ErrorMeasure measure = ErrorMeasure::kProbability) {
  return error_correlation(logits, kLabels, 3, measure);
}

TEST(EnsembleWeights, Golden) {
  const Values c = correlation({kZ1, kZ2});
  EXPECT_TRUE(all_near(c, Values{0.249234, 0.227414, 0.227414, 0.257106}, 2e-6));
  for (const auto rule : {WeightRule::kSimplex, WeightRule::kClip, WeightRule::kAllow})
    EXPECT_TRUE(all_near(ensemble_weights(c, 2, rule), Values{0.576413, 0.423587}, 2e-6));
  const Values ce = correlation({kZ1, kZ2}, ErrorMeasure::kCrossEntropy);
  EXPECT_TRUE(all_near(ce, Values{0.546018, 0.439156, 0.439156, 0.535343}, 2e-6));
  EXPECT_TRUE(all_near(ensemble_weights(ce, 2, WeightRule::kSimplex), Values{0.473713, 0.526287}, 2e-6));
}

TEST(EnsembleWeights, NegativeClosedForm) {
  const Values c = {0.065, 0.115, 0.115, 0.205};
  EXPECT_TRUE(all_near(ensemble_weights(c, 2, WeightRule::kAllow), Values{2.25, -1.25}, 2e-6));
  EXPECT_EQ(ensemble_weights(c, 2, WeightRule::kClip), (Values{1, 0}));
  EXPECT_EQ(ensemble_weights(c, 2, WeightRule::kSimplex), (Values{1, 0}));
}

TEST(EnsembleWeights, FewerImagesThanNetworks) {
  const Values c = correlation({kZ1, kZ2, kZ3});
  EXPECT_TRUE(all_near(
      c, Values{0.249234, 0.227414, 0.198183, 0.227414, 0.257106, 0.196861, 0.198183, 0.196861, 0.162769},
      2e-6));
  EXPECT_EQ(ensemble_weights(c, 3, WeightRule::kSimplex), (Values{0, 0, 1}));
  const Values closed = ensemble_weights(c, 3, WeightRule::kAllow);
  EXPECT_TRUE(all_near(closed, Values{-2.833904, -1.830287, 5.664191}, 1e-3)) << "the ridge alone holds it";
}

TEST(EnsembleWeights, IdenticalPerfectAndSickNetworks) {
  EXPECT_TRUE(
      all_near(ensemble_weights(correlation({kZ1, kZ1}), 2, WeightRule::kSimplex), Values{0.5, 0.5}, 1e-9));
  EXPECT_EQ(ensemble_weights(Values(9, 0.0), 3, WeightRule::kSimplex), Values(3, 1.0 / 3));
  EXPECT_EQ(ensemble_weights({2.0}, 1, WeightRule::kSimplex), Values{1});
  std::vector<float> sick = kZ1;
  sick[0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(ensemble_weights(correlation({sick, kZ2}), 2, WeightRule::kSimplex).empty());
}

// Optimality on the simplex: (C w)_i is the same for all weights above 0 and not smaller for the others.
TEST(EnsembleWeights, SimplexRuleIsOptimal) {
  test::Random random(test::base_seed());
  int on_the_border = 0;
  for (const int members : {2, 3, 5, 8}) {
    const auto m = static_cast<std::size_t>(members);
    std::vector<std::vector<float>> logits;
    std::vector<std::int32_t> labels = random.integers<std::int32_t>(40, 0, 6);
    for (std::size_t k = 0; k < m; ++k)
      logits.push_back(random.normals<float>(280, 0, 1 + static_cast<double>(k)));
    const Values c = error_correlation(logits, labels, 7, ErrorMeasure::kProbability);
    const Values w = ensemble_weights(c, members, WeightRule::kSimplex);
    EXPECT_NEAR(std::accumulate(w.begin(), w.end(), 0.0), 1, 1e-12);
    Values slope(m, 0);
    for (std::size_t i = 0; i < m; ++i) {
      for (std::size_t j = 0; j < m; ++j) slope[i] += c[i * m + j] * w[j];
    }
    const double value = std::inner_product(w.begin(), w.end(), slope.begin(), 0.0);
    for (std::size_t i = 0; i < m; ++i) {
      EXPECT_GE(w[i], 0);
      EXPECT_GE(slope[i], value - 1e-12);
      if (w[i] > 0) {
        EXPECT_NEAR(slope[i], value, 1e-12);
      }
      on_the_border += w[i] == 0;
    }
  }
  EXPECT_GT(on_the_border, 0);
}

}  // namespace
}  // namespace cohort::distill
