#include "kernels/augment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "tests/support/devices.h"
#include "tests/support/guard.h"
#include "tests/support/random.h"
#include "tests/support/shapes.h"
#include "tests/support/tolerance.h"

namespace cohort::kernels {
namespace {

using test::Device;
using test::Guarded;
using test::Place;

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
};

template <class T>
struct Output {
  std::vector<Guarded<T>> batches;
  Guarded<std::int32_t> labels;

  std::vector<T> values(std::size_t member = 0) const { return batches[member].values(); }
};

struct Settings {
  AugmentOptions options = {};
  std::size_t members = 1;
  bool independent = false;
  std::int32_t epoch = 5;
  std::uint64_t seed = 42;
  std::int32_t valid = -1;  // all
  Normalisation normalisation = kCifar;
  std::size_t misalign = 0;
  std::vector<std::int32_t> image_rows = {};  // empty: the indices
};

template <class T>
Output<T> run(Place place, const Images& s, const Settings& settings = {}) {
  const std::size_t batch = s.indices.size();
  Output<T> out{{}, Guarded<std::int32_t>(batch)};
  for (std::size_t m = 0; m < settings.members; ++m)
    out.batches.emplace_back(batch * s.pixels(), settings.misalign);
  const std::vector<std::int32_t> epoch{settings.epoch}, valid{settings.valid};
  test::OnDevice on(place);
  std::vector<void*> pointers;
  for (Guarded<T>& b : out.batches) pointers.push_back(on(b));
  on.run([&](auto stream) {
    augment(stream, {.images = on(s.images),
                     .image_labels = on(s.image_labels),
                     .indices = on(s.indices),
                     .image_rows = settings.image_rows.empty() ? nullptr : on(settings.image_rows),
                     .valid_rows = settings.valid < 0 ? nullptr : on(valid),
                     .epoch = on(epoch),
                     .batches = pointers,
                     .labels = on(out.labels),
                     .batch_size = static_cast<std::int64_t>(batch),
                     .height = s.height,
                     .width = s.width,
                     .channels = s.channels,
                     .dtype = dtype_of<T>(),
                     .seed = settings.seed,
                     .independent = settings.independent,
                     .options = settings.options,
                     .normalisation = settings.normalisation});
  });
  EXPECT_TRUE(out.labels.intact());
  for (const Guarded<T>& b : out.batches) EXPECT_TRUE(b.intact());
  return out;
}

// Pads, crops, flips, normalises and erases one image in separate steps, in double.
std::vector<double> reference(const Images& s, const Settings& settings, int image, std::uint32_t member) {
  const int pad = settings.options.pad, h = s.height, w = s.width, c = s.channels;
  Rng rng(RngAddress{settings.seed, RngPurpose::kAugment, member, static_cast<std::uint32_t>(settings.epoch),
                     static_cast<std::uint32_t>(image), 0});
  const auto range = static_cast<std::uint32_t>(2 * pad + 1);
  const int top = pad > 0 ? static_cast<int>(rng.below(range)) : 0;
  const int left = pad > 0 ? static_cast<int>(rng.below(range)) : 0;
  const bool flip = settings.options.flip && rng.bits() >= 0x80000000U;
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
  if (const int side = settings.options.cutout; side > 0) {
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
void compare_with_reference(Device device, const Images& s, const Settings& settings) {
  SCOPED_TRACE(testing::Message() << name_of(dtype_of<T>()) << " " << s.height << "x" << s.width << "x"
                                  << s.channels << " pad " << settings.options.pad << " independent "
                                  << settings.independent);
  const Output<T> out = run<T>(device, s, settings);
  for (std::size_t m = 0; m < settings.members; ++m) {
    for (std::size_t b = 0; b < s.indices.size(); ++b) {
      EXPECT_EQ(out.labels[b], s.image_labels[static_cast<std::size_t>(s.indices[b])]);
      const std::vector<double> expected =
          reference(s, settings, s.indices[b], settings.independent ? static_cast<std::uint32_t>(m) : 0U);
      const T* const row = out.batches[m].data() + b * s.pixels();
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

class Augment : public test::DeviceTest {
 protected:
  Device device() const { return GetParam(); }
};
COHORT_INSTANTIATE_DEVICES(Augment);

TEST_P(Augment, MatchesTheReference) {
  for (const AugmentOptions& options :
       {AugmentOptions{}, AugmentOptions{.pad = 2, .flip = false}, AugmentOptions{.pad = 0}, kNoAugment,
        AugmentOptions{.cutout = 8}, AugmentOptions{.cutout = 5}}) {
    for (const bool independent : {false, true}) {
      const Settings settings{.options = options, .members = 3, .independent = independent};
      compare_with_reference<float>(device(), Images(), settings);
      compare_with_reference<bf16>(device(), Images(), settings);
      compare_with_reference<double>(device(), Images(), settings);
    }
  }
}

TEST_P(Augment, AwkwardSizes) {
  for (const int size : {1, 2, 3, 7, 31, 33}) {
    for (const int channels : {1, 2, 3, 4}) {
      compare_with_reference<float>(device(), Images(5, size, size + 2, channels, 9),
                                    {.options = {.cutout = 3}, .members = 3, .independent = true});
    }
  }
  const Settings beyond{
      .options = {.pad = 9}, .members = 3, .independent = true};  // crops that miss the image
  compare_with_reference<float>(device(), Images(5, 3, 3, 3, 20), beyond);
  compare_with_reference<float>(device(), Images(3, 67, 61, 3, 2),
                                {.options = {.cutout = 30}});  // several blocks
  compare_with_reference<bf16>(device(), Images(3, 64, 64, 3, 2), {.options = {.cutout = 30}});
}

// Pointers that a device cannot write 16 bytes through, and more networks than it takes at once.
TEST_P(Augment, AnyAlignmentAndAnyNumberOfMembers) {
  compare_with_reference<float>(device(), Images(), {.members = 2, .misalign = 1});
  compare_with_reference<bf16>(device(), Images(), {.members = 2, .independent = true, .misalign = 3});
  for (const bool independent : {false, true}) {
    compare_with_reference<float>(device(), Images(5, 8, 8, 3, 4),
                                  {.members = 19, .independent = independent});
  }
}

// The same bits as on the CPU: the same draws, and divisions of the same doubles.
TEST_P(Augment, HasTheBitsOfTheCpu) {
  const Images s(11, 32, 32, 3, 11);
  const Settings settings{.options = {.cutout = 8}, .members = 2, .independent = true};
  for (std::size_t m = 0; m < 2; ++m) {
    EXPECT_TRUE(test::same_bits(run<float>(device(), s, settings).values(m),
                                run<float>(Device::kCpu, s, settings).values(m)));
    EXPECT_TRUE(test::same_bits(run<bf16>(device(), s, settings).values(m),
                                run<bf16>(Device::kCpu, s, settings).values(m)));
  }
}

TEST_P(Augment, WithoutAugmentationNormalisesOnly) {
  const Images s;
  const std::vector<float> out = run<float>(device(), s, {.options = kNoAugment}).values();
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::size_t image = static_cast<std::size_t>(s.indices[i / s.pixels()]);
    const double pixel = s.images[image * s.pixels() + i % s.pixels()];
    EXPECT_EQ(out[i], static_cast<float>((pixel / 255.0 - kCifar.mean[i % 3]) / kCifar.std[i % 3]));
  }
}

TEST_P(Augment, RowsBeyondTheValidOnesAreZero) {
  const Images s;
  for (const std::int32_t valid : {0, 1, 6, 7}) {
    const Output<float> out = run<float>(device(), s, {.members = 2, .valid = valid});
    for (std::size_t b = 0; b < s.indices.size(); ++b) {
      const bool real = static_cast<std::int32_t>(b) < valid;
      EXPECT_EQ(out.labels[b], real ? s.image_labels[static_cast<std::size_t>(s.indices[b])] : -1);
      for (const Guarded<float>& batch : out.batches) {
        const float* const row = batch.data() + b * s.pixels();
        EXPECT_EQ(std::all_of(row, row + s.pixels(), [](float v) { return v == 0.0F; }), !real);
      }
    }
  }
}

// Image 0 encodes its coordinates, so the output tells the draw: 81 offsets and the flip, over many epochs.
TEST(AugmentDraws, OffsetsAndFlipsAreUniform) {
  Images s(1, 16, 16, 2, 1);
  for (int y = 0; y < 16; ++y) {
    for (int x = 0; x < 16; ++x) {
      s.images[static_cast<std::size_t>((y * 16 + x) * 2)] = static_cast<std::uint8_t>(y + 1);
      s.images[static_cast<std::size_t>((y * 16 + x) * 2 + 1)] = static_cast<std::uint8_t>(x + 1);
    }
  }
  s.indices = {0};
  constexpr int kDraws = 40'500;
  std::vector<int> offsets(81, 0);
  int flips = 0;
  int flips_at_origin = 0;
  for (std::int32_t epoch = 0; epoch < kDraws; ++epoch) {
    const std::vector<double> out =
        run<double>(Device::kCpu, s, {.epoch = epoch, .normalisation = {}}).values();
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

TEST_P(Augment, ASampleDoesNotDependOnItsBatch) {
  const Images s(11, 32, 32, 3, 11);
  auto batch = [&](std::vector<std::int32_t> indices, std::uint64_t seed, std::int32_t epoch) {
    Images part = s;
    part.indices = std::move(indices);
    return run<float>(device(), part, {.epoch = epoch, .seed = seed}).values();
  };
  const std::vector<float> together = batch({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 1, 0);
  for (std::int32_t i = 0; i < 11; ++i) {
    const std::vector<float> alone = batch({i}, 1, 0);
    EXPECT_EQ(0, std::memcmp(alone.data(), together.data() + static_cast<std::size_t>(i) * s.pixels(),
                             s.pixels() * sizeof(float)));
  }
  EXPECT_NE(batch({0, 1, 2}, 1, 0), batch({0, 1, 2}, 2, 0));
  EXPECT_NE(batch({0, 1, 2}, 1, 0), batch({0, 1, 2}, 1, 1));
}

// Images that were brought to the device for this step alone: other rows, the same values.
TEST_P(Augment, ImagesMayLieElsewhereThanInTheSet) {
  const Images s;
  Images brought = s;
  std::vector<std::int32_t> rows;
  brought.images.assign(s.images.size(), 99);
  for (std::size_t b = 0; b < s.indices.size(); ++b) {
    const std::size_t row = (3 * b + 2) % 11;
    rows.push_back(static_cast<std::int32_t>(row));
    std::copy_n(s.images.data() + static_cast<std::size_t>(s.indices[b]) * s.pixels(), s.pixels(),
                brought.images.data() + row * s.pixels());
  }
  const Output<float> expected = run<float>(device(), s, {.members = 2, .independent = true});
  const Output<float> out =
      run<float>(device(), brought, {.members = 2, .independent = true, .image_rows = rows});
  for (const std::size_t member : {0U, 1U})
    EXPECT_TRUE(test::same_bits(out.values(member), expected.values(member)));
  EXPECT_EQ(out.labels.values(), expected.labels.values());
}

TEST_P(Augment, MembersShareDrawsUnlessIndependent) {
  const Images s;
  const Output<float> shared = run<float>(device(), s, {.members = 2});
  const Output<float> own = run<float>(device(), s, {.members = 2, .independent = true});
  EXPECT_TRUE(test::same_bits(shared.values(0), shared.values(1)));
  EXPECT_TRUE(test::same_bits(own.values(0), shared.values(0)));  // member 0 sees what everybody saw
  EXPECT_NE(own.values(0), own.values(1));
}

TEST_P(Augment, ThreadsDoNotChangeTheBits) {
  const Images s(50, 32, 32, 3, device() == Device::kCpu ? 129 : 9);
  std::vector<float> expected;
  test::for_each_place(device(), [&](Place place) {
    const Output<float> out = run<float>(place, s, {.members = 2, .independent = true});
    std::vector<float> a = out.values(0);
    const std::vector<float> b = out.values(1);
    a.insert(a.end(), b.begin(), b.end());
    if (expected.empty()) expected = a;
    EXPECT_TRUE(test::same_bits(a, expected));
  });
}

}  // namespace
}  // namespace cohort::kernels
