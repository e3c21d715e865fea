// Each operation against a scalar reference in double.
#include "kernels/perturb.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "tests/kernels/perturb_fixture.h"
#include "tests/support/shapes.h"
#include "tests/support/tolerance.h"

namespace cohort::kernels {
namespace {

constexpr PerturbOp kAllOps[] = {PerturbOp::kMixup, PerturbOp::kCutMix,  PerturbOp::kSplice,
                                 PerturbOp::kNoise, PerturbOp::kElastic, PerturbOp::kAffine,
                                 PerturbOp::kCrop,  PerturbOp::kRotate,  PerturbOp::kFlipX,
                                 PerturbOp::kFlipY, PerturbOp::kJitter};

class Perturb : public test::DeviceTest {};
COHORT_INSTANTIATE_DEVICES(Perturb);

double black(int c) {
  return -kTestNormalisation.mean[c] / kTestNormalisation.std[c];
}

int mirror(int i, int n) {  // by walking
  if (n == 1) return 0;
  int direction = i < 0 ? -1 : 1;
  int at = 0;
  for (int k = 0; k < std::abs(i); ++k) {
    if (at + direction < 0 || at + direction >= n) direction = -direction;
    at += direction;
  }
  return at;
}

// Weighted mean of the four neighbours; pixel(y, x) knows what lies outside.
double interpolate(double y, double x, const std::function<double(int, int)>& pixel) {
  double sum = 0.0;
  for (int dy = 0; dy < 2; ++dy) {
    for (int dx = 0; dx < 2; ++dx) {
      const int iy = static_cast<int>(std::floor(y)) + dy;
      const int ix = static_cast<int>(std::floor(x)) + dx;
      const double weight = (1.0 - std::abs(y - iy)) * (1.0 - std::abs(x - ix));
      if (weight > 0.0) sum += weight * pixel(iy, ix);
    }
  }
  return sum;
}

struct Reference {
  double value = 0.0;
  double slack = 0.0;   // further admissible error, from the rounding of coordinates
  bool either = false;  // a tie of nearest-neighbour rounding: not compared
};

// The affine map of the pool from its documented draws, output -> source by Cramer's rule.
void source_of_affine(const Rng& fresh, const PerturbOptions& o, int h, int w, int y, int x, double& v,
                      double& u) {
  Rng rng = fresh;
  const double kDegree = std::acos(-1.0) / 180.0;
  const double slope = std::tan(kDegree * static_cast<double>(rng.uniform(-o.shear, o.shear)));
  const double tx = w * static_cast<double>(rng.uniform(-o.translate, o.translate));
  const double ty = h * static_cast<double>(rng.uniform(-o.translate, o.translate));
  const double scale = static_cast<double>(rng.uniform(o.scale_low, o.scale_high));
  // forward: out = centre + shift + scale [1 -slope; 0 1] (source - centre)
  const double cx = (w - 1) / 2.0, cy = (h - 1) / 2.0;
  v = cy + (y - cy - ty) / scale;
  u = cx + (x - cx - tx) / scale + slope * (v - cy);
}

template <class T>
Reference reference(const PerturbRun<T>& run, std::int64_t b, int y, int x, int c) {
  const int h = run.height, w = run.width;
  const auto op = static_cast<PerturbOp>(run.operation[0]);
  const PerturbDraw d = run.draw(b);
  const Rng fresh(RngAddress{run.seed, RngPurpose::kPerturb, static_cast<std::uint32_t>(run.member[0]),
                             static_cast<std::uint32_t>(run.step),
                             run.options.per_sample ? static_cast<std::uint32_t>(b) : 0U,
                             static_cast<std::uint32_t>(op)});
  auto filled = [&](int yy, int xx) {
    return yy < 0 || yy >= h || xx < 0 || xx >= w ? black(c) : run.at(b, yy, xx, c);
  };
  switch (op) {
    case PerturbOp::kMixup: {
      const double lambda = static_cast<double>(Rng(fresh).uniform());
      return {lambda * run.at(b, y, x, c) + (1 - lambda) * run.at(run.partner(0, b), y, x, c)};
    }
    case PerturbOp::kCutMix: {
      const bool inside = x >= d.x0 && x < d.x1 && y >= d.y0 && y < d.y1;
      return {run.at(inside ? run.partner(0, b) : b, y, x, c)};
    }
    case PerturbOp::kSplice: {
      const int k = 2 * (y >= d.y0) + (x >= d.x0);
      const std::int64_t from = k == 0 ? b : run.partner(k - 1, b);
      return {run.at(from, y - (k >= 2 ? d.y0 : 0) + d.offset_y[k],
                     x - (k % 2 == 1 ? d.x0 : 0) + d.offset_x[k], c)};
    }
    case PerturbOp::kAffine: {
      double v = 0, u = 0;
      source_of_affine(fresh, run.options, h, w, y, x, v, u);
      return {interpolate(v, u, filled), 1e-4};
    }
    case PerturbOp::kCrop: {
      const double v = (y + 0.5) * (d.y1 - d.y0) / h - 0.5, u = (x + 0.5) * (d.x1 - d.x0) / w - 0.5;
      return {interpolate(std::clamp(v, 0.0, d.y1 - d.y0 - 1.0), std::clamp(u, 0.0, d.x1 - d.x0 - 1.0),
                          [&](int yy, int xx) { return run.at(b, d.y0 + yy, d.x0 + xx, c); }),
              1e-4};
    }
    case PerturbOp::kRotate: {
      const double angle =
          std::acos(-1.0) / 180.0 *
          static_cast<double>(Rng(fresh).uniform(-run.options.rotation, run.options.rotation));
      const double px = x - (w - 1) / 2.0, py = y - (h - 1) / 2.0;
      const double u = (w - 1) / 2.0 + std::cos(angle) * px - std::sin(angle) * py;
      const double v = (h - 1) / 2.0 + std::sin(angle) * px + std::cos(angle) * py;
      const double tie =
          std::min(std::abs(u + 0.5 - std::round(u + 0.5)), std::abs(v + 0.5 - std::round(v + 0.5)));
      return {filled(static_cast<int>(std::floor(v + 0.5)), static_cast<int>(std::floor(u + 0.5))), 0.0,
              tie < 1e-4};
    }
    case PerturbOp::kFlipX:
      return {run.at(b, y, w - 1 - x, c)};
    case PerturbOp::kFlipY:
      return {run.at(b, h - 1 - y, x, c)};
    default:
      ADD_FAILURE() << "no reference";
      return {};
  }
}

template <class T>
void compare_moved(PerturbRun<T>& run, PerturbOp op) {
  SCOPED_TRACE(testing::Message() << name_of(dtype_of<T>()) << " op " << static_cast<int>(op) << " "
                                  << run.height << "x" << run.width << "x" << run.channels << " per_sample "
                                  << run.options.per_sample << " step " << run.step);
  run.only(op);
  run.reset();
  run.run();
  ASSERT_EQ(run.operation[0], static_cast<std::int32_t>(op));
  std::size_t i = 0;
  const test::Guarded<T>& out = run.batches[static_cast<std::size_t>(run.member[0])];
  for (std::int64_t b = 0; b < run.batch_size; ++b) {
    for (int y = 0; y < run.height; ++y) {
      for (int x = 0; x < run.width; ++x) {
        for (int c = 0; c < run.channels; ++c, ++i) {
          const Reference r = reference(run, b, y, x, c);
          const double scale = std::max(4.0, std::abs(r.value));
          const double tol = 4 * test::unit_roundoff(dtype_of<T>()) * scale + r.slack * scale;
          if (r.either) continue;
          ASSERT_NEAR(static_cast<double>(out[i]), r.value, tol) << b << " " << y << " " << x << " " << c;
        }
      }
    }
  }
}

constexpr PerturbOp kMovers[] = {PerturbOp::kMixup,  PerturbOp::kCutMix, PerturbOp::kSplice,
                                 PerturbOp::kAffine, PerturbOp::kCrop,   PerturbOp::kRotate,
                                 PerturbOp::kFlipX,  PerturbOp::kFlipY};

TEST_P(Perturb, MovesAndMixesMatchTheReference) {
  for (const PerturbOp op : kMovers) {
    for (const bool per_sample : {false, true}) {
      PerturbRun<float> f32(GetParam(), 2, 7, 32, 32);
      PerturbRun<bf16> bf(GetParam(), 2, 3, 32, 32);
      PerturbRun<double> f64(GetParam(), 2, 3, 32, 32);
      f32.options.per_sample = bf.options.per_sample = f64.options.per_sample = per_sample;
      for (std::int32_t step = 0; step < 4; ++step) {
        f32.step = bf.step = f64.step = step;
        compare_moved(f32, op);
        compare_moved(bf, op);
        compare_moved(f64, op);
      }
    }
  }
}

TEST_P(Perturb, AwkwardSizes) {
  for (const PerturbOp op : kMovers) {
    for (const int size : {1, 2, 3, 7, 31, 33}) {
      PerturbRun<float> run(GetParam(), 1, 3, size, size + 3, size % 4 + 1);
      run.options.per_sample = true;
      compare_moved(run, op);
      compare_moved(run = PerturbRun<float>(GetParam(), 1, 1, size + 2, size), op);
    }
  }
}

TEST_P(Perturb, ElasticMatchesTheReference) {
  for (const bool per_sample : {false, true}) {
    PerturbRun<float> run(GetParam(), 1, 3, 17, 20);
    run.only(PerturbOp::kElastic);
    run.options.per_sample = per_sample;
    run.options.elastic_sigma = 2.0F;
    run.run();
    std::vector<double> g;
    double sum = 0.0, squares = 0.0;
    for (int k = -6; k <= 6; ++k) sum += g.emplace_back(std::exp(-k * k / 8.0));
    for (double& v : g) {
      v /= sum;
      squares += v * v;
    }
    for (std::int64_t b = 0; b < 3; ++b) {
      const RngAddress address = elastic_address(run.seed, 0, static_cast<std::uint32_t>(run.step),
                                                 per_sample ? static_cast<std::uint32_t>(b) : 0U);
      auto displacement = [&](int y, int x, int axis) {
        double total = 0.0;
        for (int j = -6; j <= 6; ++j) {
          for (int i = -6; i <= 6; ++i) {
            const int at = (mirror(y + j, 17) * 20 + mirror(x + i, 20)) * 2 + axis;
            Rng rng(address, static_cast<std::uint32_t>(at));
            const double noise = 2.0 * static_cast<double>(rng.uniform()) - 1.0;
            total += g[static_cast<std::size_t>(j + 6)] * g[static_cast<std::size_t>(i + 6)] * noise;
          }
        }
        return total * 0.5 * 2.0 * std::sqrt(3.0) / squares;
      };
      for (int y = 0; y < 17; y += 2) {
        for (int x = 0; x < 20; x += 3) {
          const double v = y + displacement(y, x, 1), u = x + displacement(y, x, 0);
          for (int c = 0; c < 3; ++c) {
            const double expected = interpolate(
                v, u, [&](int yy, int xx) { return run.at(b, mirror(yy, 17), mirror(xx, 20), c); });
            const auto i = static_cast<std::size_t>(((b * 17 + y) * 20 + x) * 3 + c);
            EXPECT_NEAR(static_cast<double>(run.batches[0][i]), expected, 1e-3);
          }
        }
      }
    }
  }
}

// Displacements are as large as promised: most below alpha, and not nothing. A ramp image shows them.
TEST(PerturbDraws, ElasticDisplacementsHaveTheStatedSize) {
  for (const int size : {32, 224}) {
    PerturbRun<float> run(test::Device::kCpu, 1, 1, size, size, 1);
    run.options = paper_perturbation(size);
    run.only(PerturbOp::kElastic);
    double squared = 0.0, count = 0.0;
    int beyond = 0;
    for (run.step = 0; run.step < (size == 32 ? 200 : 4); ++run.step) {
      for (std::size_t i = 0; i < run.pixels(); ++i) {
        run.clean[i] = static_cast<float>(i % static_cast<std::size_t>(size));
      }
      run.run();
      const int margin = size / 4;
      for (int y = margin; y < size - margin; ++y) {
        for (int x = margin; x < size - margin; ++x) {
          const double d = static_cast<double>(run.batches[0][static_cast<std::size_t>(y * size + x)]) - x;
          squared += d * d;
          count += 1.0;
          beyond += std::abs(d) > static_cast<double>(run.options.elastic_alpha);
        }
      }
    }
    const double rms = std::sqrt(squared / count) / static_cast<double>(run.options.elastic_alpha);
    EXPECT_NEAR(rms, 0.5, 0.1) << size;
    EXPECT_LT(beyond, 0.12 * count) << size;
  }
}

TEST_P(Perturb, NoiseMatchesTheReference) {
  for (const PerturbDomain domain : {PerturbDomain::kPixel, PerturbDomain::kNormalised}) {
    PerturbRun<double> run(GetParam(), 1, 3, 9, 7);
    run.only(PerturbOp::kNoise);
    run.options.domain = domain;
    run.run();
    for (std::size_t i = 0; i < run.clean.size(); ++i) {
      const std::size_t row = i / run.pixels(), at = i % run.pixels(), c = at % 3;
      Rng rng(
          noise_address(run.seed, 0, static_cast<std::uint32_t>(run.step), static_cast<std::uint32_t>(row)),
          static_cast<std::uint32_t>(at / 4));
      double normal = 0.0;
      for (std::size_t pair = 0; pair <= at % 4 / 2; ++pair) {
        const double u = ((rng.bits() >> 8) + 1.0) * 0x1p-24;
        const double angle = 2.0 * std::acos(-1.0) * static_cast<double>(rng.uniform());
        normal = std::sqrt(-2.0 * std::log(u)) * (at % 2 == 0 ? std::cos(angle) : std::sin(angle));
      }
      const bool pixel = domain == PerturbDomain::kPixel;
      const double std = pixel ? kTestNormalisation.std[c] : 1.0,
                   mean = pixel ? kTestNormalisation.mean[c] : 0.0;
      const double noisy =
          std::clamp(run.clean[i] * std + mean + static_cast<double>(run.draw(0).sigma) * normal, 0.0, 1.0);
      ASSERT_NEAR(run.batches[0][i], (noisy - mean) / std, 2e-5) << i;
    }
  }
}

// Textbook RGB -> HSV -> RGB.
void reference_hue(double* rgb, double shift) {
  const double high = std::max({rgb[0], rgb[1], rgb[2]}), low = std::min({rgb[0], rgb[1], rgb[2]});
  if (high == low) return;
  double h = 0.0;
  if (high == rgb[0])
    h = std::fmod((rgb[1] - rgb[2]) / (high - low) + 6.0, 6.0);
  else if (high == rgb[1])
    h = (rgb[2] - rgb[0]) / (high - low) + 2.0;
  else
    h = (rgb[0] - rgb[1]) / (high - low) + 4.0;
  h = h / 6.0 + shift;
  h = 6.0 * (h - std::floor(h));
  const int sector = static_cast<int>(h) % 6;
  const double f = h - std::floor(h), s = (high - low) / high;
  const double p = high * (1 - s), q = high * (1 - s * f), t = high * (1 - s * (1 - f));
  const double table[6][3] = {{high, t, p}, {q, high, p}, {p, high, t},
                              {p, q, high}, {t, p, high}, {high, p, q}};
  std::copy(table[sector], table[sector] + 3, rgb);
}

TEST_P(Perturb, JitterAndBlurMatchTheReference) {
  for (std::int32_t step = 0; step < 12; ++step) {
    PerturbRun<double> run(GetParam(), 1, 2, 9, 8);
    run.only(PerturbOp::kJitter);
    run.options.per_sample = true;
    run.options.blur_width = step % 2 == 0 ? 3 : 7;
    run.options.blur_height = step % 2 == 0 ? 3 : 9;
    run.step = step;
    run.run();
    for (std::int64_t b = 0; b < 2; ++b) {
      const PerturbDraw d = run.draw(b);
      std::vector<double> image;
      for (int i = 0; i < 9 * 8 * 3; ++i) {
        image.push_back(run.at(b, 0, i / 3, i % 3) * kTestNormalisation.std[i % 3] +
                        kTestNormalisation.mean[i % 3]);
      }
      auto luma = [&](std::size_t p) { return .2989 * image[p] + .587 * image[p + 1] + .114 * image[p + 2]; };
      for (const int which : d.order) {
        double mean = 0.0;
        for (std::size_t p = 0; p < image.size(); p += 3) mean += luma(p) / 72.0;
        const double f = static_cast<double>(d.factor[which]);
        for (std::size_t p = 0; p < image.size(); p += 3) {
          if (which == 3) {
            reference_hue(&image[p], f);
            continue;
          }
          const double other = which == 0 ? 0.0 : which == 1 ? mean : luma(p);
          for (std::size_t c = p; c < p + 3; ++c)
            image[c] = std::clamp(f * image[c] + (1 - f) * other, 0.0, 1.0);
        }
      }
      const int rx = run.options.blur_width / 2, ry = run.options.blur_height / 2;
      for (int y = 0; y < 9; ++y) {
        for (int x = 0; x < 8; ++x) {
          for (int c = 0; c < 3; ++c) {
            double sum = 0.0, total = 0.0;
            for (int j = -ry; j <= ry; ++j) {
              for (int i = -rx; i <= rx; ++i) {
                const double sigma = static_cast<double>(d.sigma);
                const double weight = std::exp(-0.5 * (i * i + j * j) / (sigma * sigma));
                total += weight;
                sum += weight *
                       image[static_cast<std::size_t>((mirror(y + j, 9) * 8 + mirror(x + i, 8)) * 3 + c)];
              }
            }
            const double expected = (sum / total - kTestNormalisation.mean[c]) / kTestNormalisation.std[c];
            const auto i = static_cast<std::size_t>(((b * 9 + y) * 8 + x) * 3 + c);
            EXPECT_NEAR(run.batches[0][i], expected, 2e-5) << "step " << step;
          }
        }
      }
    }
  }
}

TEST_P(Perturb, JitterWorksWithoutColours) {
  PerturbRun<float> run(GetParam(), 1, 2, 8, 8, 1);
  run.only(PerturbOp::kJitter);
  run.run();
  for (std::size_t i = 0; i < run.clean.size(); ++i) EXPECT_TRUE(std::isfinite(run.batches[0][i]));
  EXPECT_NE(run.batches[0].values(), run.clean);
}

TEST_P(Perturb, FlippingTwiceIsTheIdentity) {
  for (const PerturbOp op : {PerturbOp::kFlipX, PerturbOp::kFlipY}) {
    PerturbRun<bf16> run(GetParam(), 1, 5, 31, 33);
    run.only(op);
    const std::vector<bf16> first = run.clean;
    run.run();
    EXPECT_FALSE(test::same_bits(run.batches[0].values(), first));
    run.clean = run.batches[0].values();
    run.run();
    EXPECT_TRUE(test::same_bits(run.batches[0].values(), first));
  }
}

// Every op changes the drawn member's batch and nothing else, keeps pixels in [0, 1] and all numbers finite.
TEST_P(Perturb, ChangesOneMemberOnly) {
  for (const PerturbOp op : kAllOps) {
    PerturbRun<float> run(GetParam(), 4, 6, 16, 16);
    run.only(op);
    for (run.step = 0; run.step < 6; ++run.step) {
      run.reset();
      run.run();
      ASSERT_GE(run.member[0], 0);
      for (std::size_t m = 0; m < 4; ++m) {
        const std::vector<float> values = run.batches[m].values();
        EXPECT_EQ(values != run.clean, static_cast<std::int32_t>(m) == run.member[0]) << static_cast<int>(op);
        for (std::size_t i = 0; i < values.size(); ++i) {
          const double pixel =
              static_cast<double>(values[i]) * kTestNormalisation.std[i % 3] + kTestNormalisation.mean[i % 3];
          ASSERT_GT(pixel, -1e-6);
          ASSERT_LT(pixel, 1 + 1e-6);
        }
      }
    }
  }
}

TEST_P(Perturb, RowsBeyondTheValidOnesAreUntouched) {
  for (const PerturbOp op : kAllOps) {
    PerturbRun<float> run(GetParam(), 1, 6, 8, 8);
    run.only(op);
    run.valid = 4;
    std::fill(run.clean.begin() + static_cast<std::ptrdiff_t>(4 * run.pixels()), run.clean.end(), 0.0F);
    run.reset();
    run.run();
    for (std::size_t i = 4 * run.pixels(); i < run.clean.size(); ++i) ASSERT_EQ(run.batches[0][i], 0.0F);
    for (std::int64_t b = 0; b < 6; ++b) {
      for (int k = 0; k < 3; ++k) EXPECT_EQ(run.partner(k, b) < 4, b < 4);
    }
    for (std::size_t b = 4; b < 6; ++b) EXPECT_EQ(run.weights[4 * b], 1.0F);
  }
  PerturbRun<float> none(GetParam(), 1, 3, 8, 8);
  none.valid = 0;
  none.run();
  EXPECT_EQ(none.batches[0].values(), none.clean);
}

TEST_P(Perturb, ThreadsDoNotChangeTheBits) {
  for (const PerturbOp op : kAllOps) {
    for (const bool per_sample : {false, true}) {
      std::vector<float> expected;
      test::for_each_place(GetParam(), [&](test::Place place) {
        PerturbRun<float> run(place, 2, 3, 33, 31);
        run.only(op);
        run.options.per_sample = per_sample;
        run.run();
        const std::vector<float> actual = run.batches[static_cast<std::size_t>(run.member[0])].values();
        if (expected.empty()) expected = actual;
        EXPECT_TRUE(test::same_bits(actual, expected));
      });
    }
  }
}

template <class T>
void compare_with_cpu(test::Device device, PerturbOp op, const PerturbOptions& options, int height, int width,
                      int channels) {
  SCOPED_TRACE(testing::Message() << name_of(dtype_of<T>()) << " op " << static_cast<int>(op) << " " << height
                                  << "x" << width << "x" << channels);
  PerturbRun<T> expected(test::Device::kCpu, 2, 3, height, width, channels),
      actual(device, 2, 3, height, width, channels);
  for (PerturbRun<T>* run : {&expected, &actual}) {
    run->options = options;
    run->only(op);
    run->valid = 2;
    run->run();
  }
  for (std::size_t m = 0; m < 2; ++m) {
    EXPECT_TRUE(test::same_bits(actual.batches[m].values(), expected.batches[m].values()));
  }
}

// Not only what moves pixels: noise, colours and displacements too (kernels/base/portable_math.h).
TEST_P(Perturb, HasTheBitsOfTheCpu) {
  for (const PerturbOp op : kAllOps) {
    for (const bool per_sample : {false, true}) {
      for (const PerturbDomain domain : {PerturbDomain::kPixel, PerturbDomain::kNormalised}) {
        PerturbOptions options = paper_perturbation(per_sample ? 32 : 224);
        options.per_sample = per_sample;
        options.domain = domain;
        compare_with_cpu<float>(GetParam(), op, options, 33, 31, 3);
        compare_with_cpu<bf16>(GetParam(), op, options, 8, 24, 3);
        compare_with_cpu<double>(GetParam(), op, options, 9, 5, 4);
      }
    }
  }
  PerturbOptions options = paper_perturbation(224);
  options.elastic_sigma = 21.0F;
  compare_with_cpu<float>(GetParam(), PerturbOp::kElastic, options, 67, 70, 1);
}

}  // namespace
}  // namespace cohort::kernels
