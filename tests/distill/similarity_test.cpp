#include "distill/similarity.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/support/tiny_training.h"

namespace cohort::distill {
namespace {

ImageSet with_masks(std::int64_t count) {
  ImageSet set = test::patterns(count, 5, 3, 0);
  set.masks.assign(static_cast<std::size_t>(count * 64), 0);
  for (std::size_t pixel = 0; pixel < set.masks.size(); ++pixel) set.masks[pixel] = pixel % 8 < 2 ? 1 : 0;
  return set;
}

TEST(Similarity, ANetworkIsLikeItselfEverywhere) {
  test::TestRun run({.method = "independent"});
  const ImageSet images = with_masks(70);  // more than a batch
  const SimilarityMaps maps = similarity_maps(*run.cohort, images, 1, 1);
  EXPECT_EQ(maps.count, 70);
  ASSERT_EQ(maps.similarity.size(), static_cast<std::size_t>(70 * maps.height * maps.width));
  for (const double s : maps.similarity) EXPECT_NEAR(s, 1, 1e-6);
  for (const double a : maps.agreement) EXPECT_NEAR(a, 1, 1e-4);
  for (const double d : maps.difference) EXPECT_NEAR(d, 1, 1e-4) << "nothing to point at";
  EXPECT_NEAR(foreground_share(maps, maps.agreement, images), 0.25, 1e-6) << "the share of the area";
}

TEST(Similarity, TwoNetworksDifferAndWeightsHaveMeanOne) {
  test::TestRun run({.method = "independent"});
  const ImageSet images = with_masks(9);
  const SimilarityMaps maps = similarity_maps(*run.cohort, images, 0, 1);
  const double mean = std::accumulate(maps.similarity.begin(), maps.similarity.end(), 0.0) /
                      static_cast<double>(maps.similarity.size());
  EXPECT_LT(std::abs(mean), 0.9);
  const std::int64_t cells = maps.height * maps.width;
  for (std::int64_t n = 0; n < maps.count; ++n) {
    const auto begin = maps.agreement.begin() + n * cells;
    EXPECT_NEAR(std::accumulate(begin, begin + cells, 0.0) / static_cast<double>(cells), 1, 1e-3);
  }
}

TEST(Similarity, ShareCountsThePixelsThatACellCovers) {
  ImageSet images = with_masks(1);
  SimilarityMaps maps;
  maps.count = maps.height = 1;
  maps.width = 4;
  EXPECT_NEAR(foreground_share(maps, {1, 0, 0, 0}, images), 1, 1e-12) << "columns 0 and 1";
  EXPECT_NEAR(foreground_share(maps, {0, 1, 1, 1}, images), 0, 1e-12);
  EXPECT_NEAR(foreground_share(maps, {3, 1, 0, 0}, images), 0.75, 1e-12);
}

TEST(Similarity, MapsOfOtherChannelsAreRefused) {
  test::TestRun run({.method = "independent", .models = {"resnet8", "wrn_16_2"}});
  EXPECT_THROW(similarity_maps(*run.cohort, with_masks(2), 0, 1), Error);
}

}  // namespace
}  // namespace cohort::distill
