#include "data/split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/random.h"

namespace cohort::data {
namespace {

void expect_partition(const Split& split, std::size_t count) {
  EXPECT_TRUE(std::is_sorted(split.train.begin(), split.train.end()));
  EXPECT_TRUE(std::is_sorted(split.held_out.begin(), split.held_out.end()));
  std::vector<std::int32_t> all = split.train;
  all.insert(all.end(), split.held_out.begin(), split.held_out.end());
  std::sort(all.begin(), all.end());
  std::vector<std::int32_t> expected(count);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(all, expected);
}

std::vector<int> class_counts(const std::vector<std::int32_t>& indices,
                              const std::vector<std::int32_t>& labels, int num_classes) {
  std::vector<int> counts(static_cast<std::size_t>(num_classes), 0);
  for (const std::int32_t i : indices)
    ++counts[static_cast<std::size_t>(labels[static_cast<std::size_t>(i)])];
  return counts;
}

TEST(Split, IsStratified) {
  const auto labels = test::Random(1).integers<std::int32_t>(5000, 0, 9);
  std::vector<std::int32_t> everything(labels.size());
  std::iota(everything.begin(), everything.end(), 0);
  const std::vector<int> totals = class_counts(everything, labels, 10);
  for (const double fraction : {0.0, 0.001, 0.1, 0.5, 0.999}) {
    const Split split = stratified_split(labels, 10, fraction, 7);
    expect_partition(split, labels.size());
    const std::vector<int> held = class_counts(split.held_out, labels, 10);
    for (std::size_t c = 0; c < 10; ++c) {
      EXPECT_EQ(held[c], std::min(static_cast<int>(fraction * totals[c] + 0.5), totals[c] - 1));
    }
  }
  const Split fixed = stratified_split_count(labels, 10, 50, 7);
  expect_partition(fixed, labels.size());
  EXPECT_EQ(class_counts(fixed.held_out, labels, 10), std::vector<int>(10, 50));
}

TEST(Split, DependsOnTheSeedOnly) {
  const auto labels = test::Random(2).integers<std::int32_t>(1000, 0, 4);
  EXPECT_EQ(stratified_split(labels, 5, 0.2, 1).held_out, stratified_split(labels, 5, 0.2, 1).held_out);
  EXPECT_NE(stratified_split(labels, 5, 0.2, 1).held_out, stratified_split(labels, 5, 0.2, 2).held_out);
  // A smaller held-out part is a part of the larger one.
  const Split small = stratified_split(labels, 5, 0.1, 1);
  const Split large = stratified_split(labels, 5, 0.2, 1);
  EXPECT_TRUE(std::includes(large.held_out.begin(), large.held_out.end(), small.held_out.begin(),
                            small.held_out.end()));
}

// Every image is held out equally often.
TEST(Split, IsUniformWithinAClass) {
  const std::vector<std::int32_t> labels(20, 0);
  std::vector<int> counts(20, 0);
  for (std::uint64_t seed = 0; seed < 8000; ++seed) {
    for (const std::int32_t i : stratified_split(labels, 1, 0.25, seed).held_out) {
      ++counts[static_cast<std::size_t>(i)];
    }
  }
  for (const int count : counts) EXPECT_NEAR(count, 2000, 200);  // sigma 39
}

TEST(Split, KeepsOneImageOfEveryClass) {
  const std::vector<std::int32_t> labels{0, 1, 1, 2, 2, 2};
  const Split split = stratified_split(labels, 4, 0.99, 3);  // class 3 is empty
  expect_partition(split, labels.size());
  EXPECT_EQ(class_counts(split.train, labels, 4), (std::vector<int>{1, 1, 1, 0}));
  EXPECT_TRUE(stratified_split({}, 3, 0.5, 0).train.empty());
}

TEST(Split, RefusesBadInput) {
  const std::vector<std::int32_t> labels{0, 1, 5};
  EXPECT_THROW(stratified_split(labels, 3, 0.1, 0), Error);
  EXPECT_THROW(stratified_split(labels, 6, 1.0, 0), Error);
  EXPECT_THROW(stratified_split(labels, 6, -0.1, 0), Error);
  EXPECT_THROW(stratified_split(labels, 6, std::numeric_limits<double>::quiet_NaN(), 0), Error);
  EXPECT_THROW(stratified_split_count(labels, 6, -1, 0), Error);
}

}  // namespace
}  // namespace cohort::data
