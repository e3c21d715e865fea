#include "data/shapes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "data/shape_kinds.h"
#include "kernels/base/error.h"
#include "tests/support/shapes.h"

namespace cohort::data {
namespace {

constexpr ShapesOptions kSmall{.train_size = 60, .test_size = 20};

TEST(Shapes, SetsAreComplete) {
  for (const int size : {8, 31, 32, 64}) {
    for (const int classes : {2, 10, 20, 21, 100, 500}) {
      ShapesOptions options = kSmall;
      options.image_size = size;
      options.num_classes = classes;
      const Dataset dataset = make_shapes(CpuStream{}, options);
      EXPECT_EQ(dataset.train.size(), 60);
      EXPECT_EQ(dataset.test.size(), 20);
      EXPECT_EQ(dataset.train.height, size);
      const std::set<std::string> names(dataset.train.class_names.begin(), dataset.train.class_names.end());
      EXPECT_EQ(names.size(), static_cast<std::size_t>(classes));
      for (std::size_t i = 0; i < 60; ++i) EXPECT_EQ(dataset.train.labels[i], static_cast<int>(i) % classes);
      EXPECT_EQ(dataset.test.normalisation.mean[1], dataset.train.normalisation.mean[1]);
    }
  }
}

TEST(Shapes, ClassNames) {
  EXPECT_EQ(shapes_class_name(3, 10), "star");
  EXPECT_EQ(shapes_class_name(23, 100), "striped star");
  EXPECT_EQ(shapes_class_name(23, 900), "red striped star");
}

TEST(Shapes, SampleDependsOnItsAddressOnly) {
  const ImageSet few = make_shapes(CpuStream{}, kSmall, Part::kTrain, 10);
  const ImageSet more = make_shapes(CpuStream{}, kSmall, Part::kTrain, 30);
  EXPECT_TRUE(std::equal(few.images.begin(), few.images.end(), more.images.begin()));
  ShapesOptions other = kSmall;
  other.seed = 1;
  EXPECT_NE(make_shapes(CpuStream{}, other, Part::kTrain, 10).fingerprint(), few.fingerprint());
  EXPECT_NE(make_shapes(CpuStream{}, kSmall, Part::kTest, 10).fingerprint(), few.fingerprint());
}

TEST(Shapes, ThreadsDoNotChangeTheBits) {
  const std::uint64_t expected = make_shapes(CpuStream{}, kSmall, Part::kTrain, 100).fingerprint();
  test::for_each_thread_count([&](CpuStream stream) {
    EXPECT_EQ(make_shapes(stream, kSmall, Part::kTrain, 100).fingerprint(), expected);
  });
}

TEST(Shapes, TrainAndTestShareNoImage) {
  const Dataset dataset = make_shapes(CpuStream{}, {.train_size = 500, .test_size = 500});
  std::set<std::string> seen;
  for (const ImageSet* set : {&dataset.train, &dataset.test}) {
    for (std::int64_t i = 0; i < 500; ++i) {
      seen.emplace(reinterpret_cast<const char*>(set->image(i)),
                   static_cast<std::size_t>(set->image_bytes()));
    }
  }
  EXPECT_EQ(seen.size(), 1000U);
}

// The mask marks an object of reasonable size, in varying places, and no class has a telling area alone.
TEST(Shapes, MasksCoverTheFigure) {
  const ImageSet set = make_shapes(CpuStream{}, kSmall, Part::kTrain, 500);
  std::vector<double> hits(1024, 0.0);
  int small = 0;
  for (std::size_t i = 0; i < 500; ++i) {
    int area = 0;
    for (std::size_t p = 0; p < 1024; ++p) {
      const int mask = set.masks[i * 1024 + p];
      ASSERT_LE(mask, 1);
      area += mask;
      hits[p] += mask;
    }
    small += area < 40;
    EXPECT_LT(area, 700) << i;
  }
  EXPECT_LT(small, 25);  // nearly always at least 4 % of the image
  EXPECT_LT(*std::max_element(hits.begin(), hits.end()), 0.8 * 500);
  EXPECT_GT(hits[16 * 32 + 16], 100.0);
}

// Pixels under the mask differ from those around it: the figure is there where the mask says.
TEST(Shapes, FiguresStandOut) {
  const ImageSet set = make_shapes(CpuStream{}, kSmall, Part::kTrain, 200);
  double mean_contrast = 0.0;
  for (std::size_t i = 0; i < 200; ++i) {
    double sums[2][3] = {};
    double counts[2] = {};
    for (std::size_t p = 0; p < 1024; ++p) {
      const int mask = set.masks[i * 1024 + p];
      counts[mask] += 1.0;
      for (std::size_t c = 0; c < 3; ++c) sums[mask][c] += set.images[(i * 1024 + p) * 3 + c];
    }
    double squared = 0.0;
    for (int c = 0; c < 3; ++c) {
      const double d = sums[1][c] / std::max(1.0, counts[1]) - sums[0][c] / counts[0];
      squared += d * d;
    }
    mean_contrast += std::sqrt(squared) / 200.0;
  }
  EXPECT_GT(mean_contrast, 50.0);
}

TEST(Shapes, OutlinesFitTheUnitCircleAndHaveSimilarAreas) {
  for (int outline = 0; outline < kNumOutlines; ++outline) {
    SCOPED_TRACE(outline_name(outline));
    int inside = 0;
    for (int y = -120; y <= 120; ++y) {
      for (int x = -120; x <= 120; ++x) {
        const Point p{static_cast<float>(x) / 100.0F, static_cast<float>(y) / 100.0F};
        const float d = outline_distance(outline, p);
        ASSERT_TRUE(std::isfinite(d));
        inside += d < 0.0F;
        if (d < 0.0F) {
          EXPECT_LT(std::hypot(p.x, p.y), 1.16F);
        }
        // A signed distance never changes faster than the point moves.
        const float shifted = outline_distance(outline, {p.x + 0.01F, p.y});
        ASSERT_LE(std::abs(shifted - d), 0.0101F) << p.x << "," << p.y;
      }
    }
    EXPECT_GT(inside, 6000);
    EXPECT_LT(inside, 24000);
  }
}

TEST(Shapes, PatternsStayInRange) {
  for (int pattern = 0; pattern < kNumPatterns; ++pattern) {
    float low = 1.0F, high = 0.0F;
    for (int i = 0; i < 10'000; ++i) {
      const float v = pattern_value(
          pattern, {static_cast<float>(i % 100) * 0.037F - 1.0F, static_cast<float>(i / 100) * 0.041F - 2.0F},
          7);
      ASSERT_GE(v, 0.0F);
      ASSERT_LE(v, 1.0F);
      low = std::min(low, v);
      high = std::max(high, v);
    }
    EXPECT_LT(low, 0.3F) << pattern_name(pattern);
    EXPECT_GT(high, 0.7F) << pattern_name(pattern);
  }
}

TEST(Shapes, RefusesBadOptions) {
  for (const ShapesOptions& options :
       {ShapesOptions{.image_size = 7}, ShapesOptions{.image_size = 2000}, ShapesOptions{.num_classes = 1},
        ShapesOptions{.num_classes = 1'000'000}, ShapesOptions{.train_size = -1}}) {
    EXPECT_THROW(make_shapes(CpuStream{}, options), Error);
  }
  EXPECT_THROW(make_shapes(CpuStream{}, {.train_size = 0}), Error);
  EXPECT_THROW(make_shapes(CpuStream{}, {.test_size = 0}), Error);
}

struct Features {
  std::size_t width = 0;
  std::vector<float> values;  // (N, width)
  const float* row(std::size_t i) const { return values.data() + i * width; }
};

Features raw_pixels(const ImageSet& set) {
  Features f{static_cast<std::size_t>(set.image_bytes()), {}};
  for (const std::uint8_t v : set.images) f.values.push_back((static_cast<float>(v) - 108.0F) / 54.0F);
  return f;
}

// 8 x 8 x 8 colour bins.
Features colour_histogram(const ImageSet& set) {
  Features f{512, std::vector<float>(static_cast<std::size_t>(set.size()) * 512, 0.0F)};
  for (std::size_t p = 0; p < set.images.size(); p += 3) {
    const std::size_t bin =
        set.images[p] / 32U * 64U + set.images[p + 1] / 32U * 8U + set.images[p + 2] / 32U;
    f.values[p / static_cast<std::size_t>(set.image_bytes()) * 512 + bin] += 1.0F / 64.0F;
  }
  return f;
}

double nearest_class_mean(const Features& train, const ImageSet& train_set, const Features& test,
                          const ImageSet& test_set) {
  const auto classes = static_cast<std::size_t>(train_set.num_classes);
  std::vector<double> means(classes * train.width, 0.0);
  for (std::size_t i = 0; i < train_set.labels.size(); ++i) {
    double* const mean = means.data() + static_cast<std::size_t>(train_set.labels[i]) * train.width;
    for (std::size_t d = 0; d < train.width; ++d) mean[d] += static_cast<double>(train.row(i)[d]);
  }
  const double per_class = static_cast<double>(train_set.size()) / static_cast<double>(classes);
  int correct = 0;
  for (std::size_t i = 0; i < test_set.labels.size(); ++i) {
    std::vector<double> distance(classes, 0.0);
    for (std::size_t k = 0; k < classes; ++k) {
      for (std::size_t d = 0; d < test.width; ++d) {
        const double e = static_cast<double>(test.row(i)[d]) - means[k * train.width + d] / per_class;
        distance[k] += e * e;
      }
    }
    correct += std::min_element(distance.begin(), distance.end()) - distance.begin() == test_set.labels[i];
  }
  return static_cast<double>(correct) / static_cast<double>(test_set.size());
}

// Softmax regression by plain stochastic gradient descent.
double softmax_regression(const Features& train, const ImageSet& train_set, const Features& test,
                          const ImageSet& test_set) {
  constexpr std::size_t kClasses = 10;
  const std::size_t width = train.width;
  std::vector<float> weight(kClasses * width, 0.0F);
  auto logits = [&](const float* x, float* z) {
    for (std::size_t k = 0; k < kClasses; ++k) {
      float sum = 0.0F;
      const float* const w = weight.data() + k * width;
#pragma omp simd reduction(+ : sum)
      for (std::size_t d = 0; d < width; ++d) sum += w[d] * x[d];
      z[k] = sum;
    }
  };
  float z[kClasses];
  for (int epoch = 0; epoch < 8; ++epoch) {
    const float rate = 1.0F / static_cast<float>(width) / static_cast<float>(1 + epoch);
    for (std::size_t i = 0; i < train_set.labels.size(); ++i) {
      logits(train.row(i), z);
      const float top = *std::max_element(z, z + kClasses);
      float total = 0.0F;
      for (float& v : z) total += v = std::exp(v - top);
      for (std::size_t k = 0; k < kClasses; ++k) {
        const float target = train_set.labels[i] == static_cast<std::int32_t>(k) ? 1.0F : 0.0F;
        const float g = rate * (z[k] / total - target);
        float* const w = weight.data() + k * width;
        for (std::size_t d = 0; d < width; ++d) w[d] -= g * train.row(i)[d];
      }
    }
  }
  int correct = 0;
  for (std::size_t i = 0; i < test_set.labels.size(); ++i) {
    logits(test.row(i), z);
    correct += std::max_element(z, z + kClasses) - z == test_set.labels[i];
  }
  return static_cast<double>(correct) / static_cast<double>(test_set.size());
}

// The two classifiers do find what is there to be found.
TEST(Shapes, SimpleClassifiersFindPlantedColours) {
  Dataset dataset = make_shapes(CpuStream{}, {.train_size = 1000, .test_size = 200});
  for (ImageSet* set : {&dataset.train, &dataset.test}) {
    for (std::size_t p = 0; p < set->images.size(); ++p) {
      const auto label = static_cast<std::size_t>(set->labels[p / 3072]);
      if (p % 10 == label) set->images[p] = 255;
    }
  }
  const Features train = raw_pixels(dataset.train);
  const Features test = raw_pixels(dataset.test);
  EXPECT_GT(nearest_class_mean(train, dataset.train, test, dataset.test), 0.7);
  EXPECT_GT(softmax_regression(train, dataset.train, test, dataset.test), 0.7);
}

// Colours tell nothing, pixel templates little: a network has to find the outline.
TEST(Shapes, SimpleClassifiersFail) {
  const Dataset dataset = make_shapes(CpuStream{}, {.train_size = 4000, .test_size = 1000});
  for (const bool histogram : {false, true}) {
    const Features train = histogram ? colour_histogram(dataset.train) : raw_pixels(dataset.train);
    const Features test = histogram ? colour_histogram(dataset.test) : raw_pixels(dataset.test);
    const double means = nearest_class_mean(train, dataset.train, test, dataset.test);
    const double linear = softmax_regression(train, dataset.train, test, dataset.test);
    EXPECT_LT(means, 0.35) << (histogram ? "histogram" : "pixels");
    EXPECT_LT(linear, 0.35) << (histogram ? "histogram" : "pixels");
  }
}

}  // namespace
}  // namespace cohort::data
