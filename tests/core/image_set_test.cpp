#include "core/image_set.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/random.h"

namespace cohort {
namespace {

ImageSet small_set() {
  test::Random random(5);
  ImageSet set{.name = "small", .height = 3, .width = 2, .channels = 3};
  set.images = random.integers<std::uint8_t>(7 * 18, 0, 255);
  set.labels = random.integers<std::int32_t>(7, 0, 3);
  set.num_classes = 4;
  set.masks = random.integers<std::uint8_t>(7 * 6, 0, 1);
  return set;
}

TEST(ImageSet, SubsetCopiesTheChosenImages) {
  const ImageSet set = small_set();
  const std::vector<std::int32_t> indices{6, 0, 0, 3};
  const ImageSet chosen = set.subset(indices);
  chosen.check_usable();
  ASSERT_EQ(chosen.size(), 4);
  for (std::size_t i = 0; i < indices.size(); ++i) {
    const auto from = static_cast<std::size_t>(indices[i]);
    EXPECT_EQ(chosen.labels[i], set.labels[from]);
    for (std::size_t p = 0; p < 18; ++p) EXPECT_EQ(chosen.images[i * 18 + p], set.images[from * 18 + p]);
    for (std::size_t p = 0; p < 6; ++p) EXPECT_EQ(chosen.masks[i * 6 + p], set.masks[from * 6 + p]);
  }
  EXPECT_EQ(set.subset({}).size(), 0);
  EXPECT_THROW(set.subset(std::vector<std::int32_t>{7}), Error);
  EXPECT_THROW(set.subset(std::vector<std::int32_t>{-1}), Error);
}

TEST(ImageSet, FingerprintSeesEveryPart) {
  const ImageSet set = small_set();
  EXPECT_EQ(set.fingerprint(), small_set().fingerprint());
  for (int part = 0; part < 6; ++part) {
    ImageSet other = set;
    if (part == 0) other.images[77] ^= 1;
    if (part == 1) other.labels[3] ^= 1;
    if (part == 2) other.masks[5] ^= 1;
    if (part == 3) std::swap(other.height, other.width);
    if (part == 4) other.num_classes = 5;
    if (part == 5) other.masks.clear();
    EXPECT_NE(other.fingerprint(), set.fingerprint()) << part;
  }
}

TEST(ImageSet, RefusesSetsThatCannotBeTrainedOn) {
  auto kind_of = [](const ImageSet& set) {
    try {
      set.check_usable();
    } catch (const Error& error) {
      return error.exit_code();
    }
    return 0;
  };
  EXPECT_EQ(kind_of(small_set()), 0);
  EXPECT_EQ(kind_of(ImageSet{.name = "empty", .height = 3, .width = 3, .num_classes = 2}), 3);
  ImageSet set = small_set();
  set.num_classes = 1;
  EXPECT_EQ(kind_of(set), 3);
  for (const std::int32_t label : {-1, 4}) {
    set = small_set();
    set.labels[6] = label;
    EXPECT_EQ(kind_of(set), 3);
  }
  set = small_set();
  set.images.pop_back();
  EXPECT_EQ(kind_of(set), 1);
}

TEST(ImageSet, MeasuresMeanAndDeviation) {
  ImageSet set{.name = "x", .height = 1, .width = 2, .channels = 2};
  set.images = {0, 9, 255, 9, 255, 9, 255, 9};
  set.labels = {0, 1};
  const kernels::Normalisation n = measure_normalisation(set);
  EXPECT_DOUBLE_EQ(n.mean[0], 0.75);
  EXPECT_NEAR(n.std[0], std::sqrt(0.1875), 1e-12);
  EXPECT_DOUBLE_EQ(n.mean[1], 9.0 / 255.0);
  EXPECT_EQ(n.std[1], 1.0);  // a constant channel
}

}  // namespace
}  // namespace cohort
