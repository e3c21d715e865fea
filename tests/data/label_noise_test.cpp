#include "data/label_noise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/base/error.h"

namespace cohort::data {
namespace {

constexpr int kClasses = 10;

struct Noisy {
  std::vector<std::int32_t> labels;
  std::int64_t wrong;
};

std::vector<std::int32_t> clean(std::size_t count) {
  std::vector<std::int32_t> labels(count);
  for (std::size_t i = 0; i < count; ++i) labels[i] = static_cast<std::int32_t>(i % kClasses);
  return labels;
}

Noisy noisy(std::size_t count, const LabelNoise& noise) {
  Noisy result{clean(count), 0};
  std::vector<std::int32_t> indices(count);
  std::iota(indices.begin(), indices.end(), 0);
  result.wrong = add_label_noise(result.labels, indices, kClasses, noise);
  return result;
}

std::int64_t differences(const std::vector<std::int32_t>& a, const std::vector<std::int32_t>& b) {
  std::int64_t count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) count += a[i] != b[i] ? 1 : 0;
  return count;
}

TEST(LabelNoise, ChangesTheShareItSays) {
  for (const double share : {0.0, 0.1, 0.3, 0.5, 1.0}) {
    const Noisy excluded = noisy(10000, {.share = share, .exclude_true = true, .seed = 3});
    EXPECT_EQ(excluded.wrong, static_cast<std::int64_t>(share * 10000)) << "every label drawn is another one";
    EXPECT_EQ(differences(excluded.labels, clean(10000)), excluded.wrong);
    const Noisy uniform = noisy(10000, {.share = share, .seed = 3});
    // A tenth of the draws hit the old label: binomial, five standard deviations.
    const double drawn = share * 10000;
    EXPECT_NEAR(static_cast<double>(uniform.wrong), 0.9 * drawn, 5 * std::sqrt(drawn * 0.09) + 1e-9);
  }
}

TEST(LabelNoise, DrawsEveryClassAlike) {
  const Noisy all = noisy(100000, {.share = 1, .seed = 1});
  std::vector<double> counts(kClasses, 0);
  for (const std::int32_t label : all.labels) ++counts.at(static_cast<std::size_t>(label));
  double chi2 = 0;
  for (const double count : counts) chi2 += (count - 10000) * (count - 10000) / 10000;
  EXPECT_LT(chi2, 33.7) << "chi-squared, 9 degrees of freedom, p = 1e-4";
}

TEST(LabelNoise, IsFixedByTheSeedAndGrowsWithTheShare) {
  EXPECT_EQ(noisy(1000, {.share = 0.3, .seed = 5}).labels, noisy(1000, {.share = 0.3, .seed = 5}).labels);
  EXPECT_NE(noisy(1000, {.share = 0.3, .seed = 5}).labels, noisy(1000, {.share = 0.3, .seed = 6}).labels);
  const std::vector<std::int32_t> original = clean(1000);
  const Noisy less = noisy(1000, {.share = 0.1, .seed = 5}), more = noisy(1000, {.share = 0.5, .seed = 5});
  for (std::size_t i = 0; i < 1000; ++i) {
    if (less.labels[i] != original[i]) {
      EXPECT_EQ(more.labels[i], less.labels[i]);
    }
  }
}

TEST(LabelNoise, LeavesOtherImagesAlone) {
  std::vector<std::int32_t> labels = clean(100);
  const std::vector<std::int32_t> odd = {1, 3, 5, 7};
  EXPECT_EQ(add_label_noise(labels, odd, kClasses, {.share = 1, .exclude_true = true}), 4);
  for (std::size_t i = 0; i < 100; ++i) {
    const bool listed = i < 8 && i % 2 == 1;
    EXPECT_EQ(labels[i] == static_cast<std::int32_t>(i % kClasses), !listed) << i;
  }
}

TEST(LabelNoise, RefusesSharesThatAreNone) {
  std::vector<std::int32_t> labels = clean(10);
  for (const double share : {-0.1, 1.1, std::nan("")})
    EXPECT_THROW(add_label_noise(labels, {}, kClasses, {.share = share}), Error);
}

}  // namespace
}  // namespace cohort::data
