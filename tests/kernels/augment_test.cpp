#include "kernels/augment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "tests/support/guard.h"
#include "tests/support/random.h"
#include "tests/support/shapes.h"
#include "tests/support/tolerance.h"

namespace cohort::kernels {
namespace {

using test::Guarded;

constexpr Normalisation kCifar{{0.5071, 0.4867, 0.4408, 0.5}, {0.2675, 0.2565, 0.2761, 0.25}};

struct Images {
  int num_images = 11, height = 32, width = 32, channels = 3;
  std::vector<std::uint8_t> images;
  std::vector<std::int32_t> image_labels;
  std::vector<std::int32_t> indices;

  explicit Images(int n = 11, int h = 32, int w = 32, int c = 3, int batch = 7)
      : num_images(n), height(h), width(w), channels(c) {
    test::Random random(77);
    images = random.integers<std::uint8_t>(static_cast<std::size_t>(n * h * w * c), 0, 255);
    image_labels = random.integers<std::int32_t>(static_cast<std::size_t>(n), 0, 9);
    indices = random.integers<std::int32_t>(static_cast<std::size_t>(batch), 0, n - 1);
  }
  std::size_t pixels() const { return static_cast<std::size_t>(height * width * channels); }
  AugmentArgs args() const {
    return {.images = images.data(),
            .image_labels = image_labels.data(),
            .indices = indices.data(),
            .batch_size = static_cast<std::int64_t>(indices.size()),
            .height = height,
            .width = width,
            .channels = channels,
            .seed = 42,
            .normalisation = kCifar};
  }
};

// Pads, crops, flips, normalises and erases one image in separate steps, in double.
std::vector<double> reference(const Images& s, const AugmentArgs& args, int image, std::uint32_t member,
                              std::uint32_t epoch) {
  const int pad = args.options.pad, h = s.height, w = s.width, c = s.channels;
  Rng rng(RngAddress{args.seed, RngPurpose::kAugment, member, epoch, static_cast<std::uint32_t>(image), 0});
  const auto range = static_cast<std::uint32_t>(2 * pad + 1);
  const int top = pad > 0 ? static_cast<int>(rng.below(range)) : 0;
  const int left = pad > 0 ? static_cast<int>(rng.below(range)) : 0;
  const bool flip = args.options.flip && rng.bits() >= 0x80000000U;
  std::vector<int> padded(static_cast<std::size_t>((h + 2 * pad) * (w + 2 * pad) * c), 0);
  for (int y = 0; y < h; ++y) {
    for (int x = 0; x < w * c; ++x) {
      padded[static_cast<std::size_t>(((y + pad) * (w + 2 * pad) + pad) * c + x)] =
          s.images[static_cast<std::size_t>(image) * s.pixels() + static_cast<std::size_t>(y * w * c + x)];
    }
  }
  std::vector<double> out;
  for (int y = 0; y < h; ++y) {
    for (int x = 0; x < w; ++x) {
      for (int k = 0; k < c; ++k) {
        const int u = flip ? w - 1 - x : x;
        const int pixel = padded[static_cast<std::size_t>(((y + top) * (w + 2 * pad) + u + left) * c + k)];
        out.push_back((pixel / 255.0 - kCifar.mean[k]) / kCifar.std[k]);
      }
    }
  }
  if (const int side = args.options.cutout; side > 0) {
    const int cy = static_cast<int>(rng.below(static_cast<std::uint32_t>(h)));
    const int cx = static_cast<int>(rng.below(static_cast<std::uint32_t>(w)));
    for (int y = 0; y < h; ++y) {
      for (int x = 0; x < w; ++x) {
        const bool inside =
            y >= cy - side / 2 && y < cy - side / 2 + side && x >= cx - side / 2 && x < cx - side / 2 + side;
        for (int k = 0; inside && k < c; ++k) out[static_cast<std::size_t>((y * w + x) * c + k)] = 0.0;
      }
    }
  }
  return out;
}

template <class T>
void compare_with_reference(const Images& s, const AugmentOptions& options, bool independent) {
  SCOPED_TRACE(testing::Message() << name_of(dtype_of<T>()) << " " << s.height << "x" << s.width << "x"
                                  << s.channels << " pad " << options.pad << " independent " << independent);
  const std::size_t batch = s.indices.size();
  std::vector<Guarded<T>> outputs(3, Guarded<T>(batch * s.pixels()));
  std::vector<void*> pointers;
  for (Guarded<T>& out : outputs) pointers.push_back(out.data());
  Guarded<std::int32_t> labels(batch);
  const std::int32_t epoch = 5;
  AugmentArgs args = s.args();
  args.epoch = &epoch;
  args.batches = pointers;
  args.labels = labels.data();
  args.dtype = dtype_of<T>();
  args.independent = independent;
  args.options = options;
  augment(CpuStream{}, args);
  EXPECT_TRUE(labels.intact());
  for (std::size_t m = 0; m < outputs.size(); ++m) {
    EXPECT_TRUE(outputs[m].intact());
    for (std::size_t b = 0; b < batch; ++b) {
      EXPECT_EQ(labels[b], s.image_labels[static_cast<std::size_t>(s.indices[b])]);
      const std::vector<double> expected =
          reference(s, args, s.indices[b], independent ? static_cast<std::uint32_t>(m) : 0U, 5);
      const T* const row = outputs[m].data() + b * s.pixels();
      const std::vector<T> actual(row, row + s.pixels());
      EXPECT_TRUE(test::all_within(
          actual, expected,
          [&](std::size_t i) {
            const double rounding =
                test::unit_roundoff(DType::f32) * (dtype_of<T>() == DType::f64 ? 1e-8 : 1.0);
            return (test::unit_roundoff(dtype_of<T>()) + rounding) * std::abs(expected[i]) + 1e-30;
          }))
          << "member " << m << " row " << b;
    }
  }
}

TEST(Augment, MatchesTheReference) {
  for (const AugmentOptions& options :
       {AugmentOptions{}, AugmentOptions{.pad = 2, .flip = false}, AugmentOptions{.pad = 0}, kNoAugment,
        AugmentOptions{.cutout = 8}, AugmentOptions{.cutout = 5}}) {
    for (const bool independent : {false, true}) {
      compare_with_reference<float>(Images(), options, independent);
      compare_with_reference<bf16>(Images(), options, independent);
      compare_with_reference<double>(Images(), options, independent);
    }
  }
}

TEST(Augment, AwkwardSizes) {
  for (const int size : {1, 2, 3, 7, 31, 33}) {
    for (const int channels : {1, 2, 3, 4}) {
      compare_with_reference<float>(Images(5, size, size + 2, channels, 9), {.cutout = 3}, true);
    }
  }
  compare_with_reference<float>(Images(5, 3, 3, 3, 20), {.pad = 9}, true);  // crops that miss the image
}

TEST(Augment, WithoutAugmentationNormalisesOnly) {
  const Images s;
  std::vector<float> out(s.indices.size() * s.pixels());
  void* const pointers[] = {out.data()};
  AugmentArgs args = s.args();
  args.batches = pointers;
  args.options = kNoAugment;
  augment(CpuStream{}, args);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::size_t image = static_cast<std::size_t>(s.indices[i / s.pixels()]);
    const double pixel = s.images[image * s.pixels() + i % s.pixels()];
    EXPECT_EQ(out[i], static_cast<float>((pixel / 255.0 - kCifar.mean[i % 3]) / kCifar.std[i % 3]));
  }
}

TEST(Augment, RowsBeyondTheValidOnesAreZero) {
  const Images s;
  Guarded<float> out(s.indices.size() * s.pixels());
  Guarded<std::int32_t> labels(s.indices.size());
  void* const pointers[] = {out.data()};
  for (const std::int32_t valid : {0, 1, 6, 7}) {
    AugmentArgs args = s.args();
    args.batches = pointers;
    args.labels = labels.data();
    args.valid_rows = &valid;
    augment(CpuStream{}, args);
    for (std::size_t b = 0; b < s.indices.size(); ++b) {
      const bool real = static_cast<std::int32_t>(b) < valid;
      EXPECT_EQ(labels[b], real ? s.image_labels[static_cast<std::size_t>(s.indices[b])] : -1);
      const float* const row = out.data() + b * s.pixels();
      EXPECT_EQ(std::all_of(row, row + s.pixels(), [](float v) { return v == 0.0F; }), !real);
    }
  }
}

// Image 0 encodes its coordinates, so the output tells the draw: 81 offsets and the flip, over many epochs.
TEST(Augment, OffsetsAndFlipsAreUniform) {
  Images s(1, 16, 16, 2, 1);
  for (int y = 0; y < 16; ++y) {
    for (int x = 0; x < 16; ++x) {
      s.images[static_cast<std::size_t>((y * 16 + x) * 2)] = static_cast<std::uint8_t>(y + 1);
      s.images[static_cast<std::size_t>((y * 16 + x) * 2 + 1)] = static_cast<std::uint8_t>(x + 1);
    }
  }
  s.indices = {0};
  std::vector<double> out(s.pixels());
  void* const pointers[] = {out.data()};
  AugmentArgs args = s.args();
  args.batches = pointers;
  args.dtype = DType::f64;
  args.normalisation = {};
  constexpr int kDraws = 40'500;
  std::vector<int> offsets(81, 0);
  int flips = 0;
  int flips_at_origin = 0;
  for (std::int32_t epoch = 0; epoch < kDraws; ++epoch) {
    args.epoch = &epoch;
    augment(CpuStream{}, args);
    auto pixel = [&](int y, int x, int c) {
      return static_cast<int>(std::lround(out[static_cast<std::size_t>((y * 16 + x) * 2 + c)] * 255.0)) - 1;
    };
    const bool flip = pixel(8, 8, 1) > pixel(8, 9, 1);
    const int dy = pixel(8, 8, 0) - 8;
    const int dx = pixel(8, 8, 1) - (flip ? 7 : 8);
    ASSERT_LE(std::abs(dy), 4);
    ASSERT_LE(std::abs(dx), 4);
    ++offsets[static_cast<std::size_t>((dy + 4) * 9 + dx + 4)];
    flips += flip;
    flips_at_origin += flip && dy >= 0;
  }
  double chi_square = 0.0;
  for (const int count : offsets) chi_square += (count - 500.0) * (count - 500.0) / 500.0;
  EXPECT_LT(chi_square, 155.0);  // 80 degrees, p = 1e-6
  EXPECT_GT(chi_square, 30.0);
  EXPECT_NEAR(flips, kDraws / 2, 5 * std::sqrt(kDraws / 4.0));
  EXPECT_NEAR(flips_at_origin, kDraws * 5 / 18, 5 * std::sqrt(kDraws * 0.2));
}

TEST(Augment, ASampleDoesNotDependOnItsBatch) {
  const Images s(11, 32, 32, 3, 11);
  auto run = [&](std::vector<std::int32_t> indices, std::uint64_t seed, std::int32_t epoch) {
    std::vector<float> out(indices.size() * s.pixels());
    void* const pointers[] = {out.data()};
    AugmentArgs args = s.args();
    args.indices = indices.data();
    args.batch_size = static_cast<std::int64_t>(indices.size());
    args.batches = pointers;
    args.seed = seed;
    args.epoch = &epoch;
    augment(CpuStream{}, args);
    return out;
  };
  const std::vector<float> together = run({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 1, 0);
  for (std::int32_t i = 0; i < 11; ++i) {
    const std::vector<float> alone = run({i}, 1, 0);
    EXPECT_EQ(0, std::memcmp(alone.data(), together.data() + static_cast<std::size_t>(i) * s.pixels(),
                             s.pixels() * sizeof(float)));
  }
  EXPECT_NE(run({0, 1, 2}, 1, 0), run({0, 1, 2}, 2, 0));
  EXPECT_NE(run({0, 1, 2}, 1, 0), run({0, 1, 2}, 1, 1));
}

TEST(Augment, MembersShareDrawsUnlessIndependent) {
  const Images s;
  const std::size_t count = s.indices.size() * s.pixels();
  std::vector<float> first(count), second(count);
  void* const pointers[] = {first.data(), second.data()};
  AugmentArgs args = s.args();
  args.batches = pointers;
  augment(CpuStream{}, args);
  const std::vector<float> shared = first;
  EXPECT_TRUE(test::same_bits(first, second));
  args.independent = true;
  augment(CpuStream{}, args);
  EXPECT_TRUE(test::same_bits(first, shared));  // member 0 sees what everybody saw
  EXPECT_NE(first, second);
}

TEST(Augment, ThreadsDoNotChangeTheBits) {
  const Images s(50, 32, 32, 3, 129);
  std::vector<float> expected;
  test::for_each_thread_count([&](CpuStream stream) {
    std::vector<float> a(s.indices.size() * s.pixels()), b(a.size());
    void* const pointers[] = {a.data(), b.data()};
    AugmentArgs args = s.args();
    args.batches = pointers;
    args.independent = true;
    augment(stream, args);
    a.insert(a.end(), b.begin(), b.end());
    if (expected.empty()) expected = a;
    EXPECT_TRUE(test::same_bits(a, expected));
  });
}

}  // namespace
}  // namespace cohort::kernels
