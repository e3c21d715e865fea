#include "kernels/pixel_cosine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/devices.h"
#include "tests/support/feature_fixture.h"
#include "tests/support/guard.h"
#include "tests/support/random.h"
#include "tests/support/shapes.h"
#include "tests/support/tolerance.h"

namespace cohort::test {
namespace {

template <class T>
struct Case {
  using A = Accumulator<T>;
  std::size_t positions = 1, channels = 1;
  std::vector<T> a, b;
  std::vector<A> grad;

  // Elements that every array starts after a 64-byte boundary: 0 lets a device use 16-byte accesses.
  std::vector<A> forward(Place place, std::size_t misalign = 0) const {
    const Guarded<T> x(a, misalign), y(b, misalign);
    Guarded<A> s(positions);
    OnDevice on(place);
    on.run([&](auto stream) {
      kernels::pixel_cosine(stream, {.dtype = dtype_of<T>(),
                                     .positions = static_cast<std::int64_t>(positions),
                                     .channels = static_cast<std::int64_t>(channels),
                                     .a = on(x),
                                     .b = on(y),
                                     .similarity = on(s)});
    });
    EXPECT_TRUE(s.intact());
    return s.values();
  }

  // Gradients of a and b; each is added to `before` when given.
  std::pair<std::vector<T>, std::vector<T>> backward(Place place, std::size_t misalign = 0,
                                                     const std::vector<T>& before = {}) const {
    const Guarded<T> x(a, misalign), y(b, misalign);
    Guarded<T> da(a.size(), misalign);
    Guarded<T> db(a.size(), 2 * misalign);
    if (!before.empty()) da = db = Guarded<T>(before);
    const GradMode mode = before.empty() ? GradMode::kOverwrite : GradMode::kAccumulate;
    OnDevice on(place);
    on.run([&](auto stream) {
      kernels::pixel_cosine_backward(stream, {.dtype = dtype_of<T>(),
                                              .positions = static_cast<std::int64_t>(positions),
                                              .channels = static_cast<std::int64_t>(channels),
                                              .a = on(x),
                                              .b = on(y),
                                              .grad_similarity = on(grad),
                                              .grad_a = on(da),
                                              .grad_a_mode = mode,
                                              .grad_b = on(db),
                                              .grad_b_mode = mode});
    });
    EXPECT_TRUE(da.intact() && db.intact());
    return {da.values(), db.values()};
  }

  static Case draw(std::size_t positions, std::size_t channels, std::uint64_t seed) {
    Random rng(seed);
    Case c{
        positions, channels, rng.normals<T>(positions * channels), rng.normals<T>(positions * channels), {}};
    c.grad = rng.normals<A>(positions);
    return c;
  }
};

struct Reference {
  std::vector<double> s, da, db, a_tol, b_tol;
};

template <class T>
Reference reference(const Case<T>& c) {
  Reference r;
  const double u = unit_roundoff(accumulator_of(dtype_of<T>()));
  const double f = sum_factor(static_cast<std::int64_t>(c.channels), 4) + 8;
  for (std::size_t n = 0; n < c.positions; ++n) {
    const auto a = [&](std::size_t k) { return static_cast<double>(c.a[n * c.channels + k]); };
    const auto b = [&](std::size_t k) { return static_cast<double>(c.b[n * c.channels + k]); };
    double ab = 0;
    double aa = 0;
    double bb = 0;
    for (std::size_t k = 0; k < c.channels; ++k) {
      ab += a(k) * b(k);
      aa += a(k) * a(k);
      bb += b(k) * b(k);
    }
    const double norms = std::sqrt(aa * bb);
    const double s = ab / std::max(norms, 1e-8);
    r.s.push_back(s);
    const double g = c.grad.empty() ? 0 : static_cast<double>(c.grad[n]);
    for (std::size_t k = 0; k < c.channels; ++k) {
      const bool flat = norms <= 1e-8;
      r.da.push_back(flat ? 0 : g * (b(k) / norms - s * a(k) / aa));
      r.db.push_back(flat ? 0 : g * (a(k) / norms - s * b(k) / bb));
      const double ma = flat ? 0 : std::abs(g) * (std::abs(b(k)) / norms + 2 * std::abs(a(k)) / aa);
      const double mb = flat ? 0 : std::abs(g) * (std::abs(a(k)) / norms + 2 * std::abs(b(k)) / bb);
      r.a_tol.push_back(f * u * ma + unit_roundoff(dtype_of<T>()) * std::abs(r.da.back()) + 1e-300);
      r.b_tol.push_back(f * u * mb + unit_roundoff(dtype_of<T>()) * std::abs(r.db.back()) + 1e-300);
    }
  }
  return r;
}

template <class On>
class PixelCosine : public TypedDeviceTest<On> {};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(PixelCosine, Types, DeviceNames);

TYPED_TEST(PixelCosine, MatchesReference) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = base_seed(10);
  for (const std::size_t positions : {1U, 3U, 49U, TypeParam::device == Device::kCpu ? 130U : 33U}) {
    for (const std::size_t channels : {1U, 2U, 3U, 7U, 16U, 31U, 33U, 64U, 72U, 257U, 512U}) {
      COHORT_TRACE_SEED(++seed);
      const auto c = Case<T>::draw(positions, channels, seed);
      const Reference r = reference(c);
      const double u = unit_roundoff(accumulator_of(dtype_of<T>()));
      const double tol = (sum_factor(static_cast<std::int64_t>(channels), 4) + 8) * u;
      for (const std::size_t misalign : {0U, 1U}) {
        EXPECT_TRUE(all_near(c.forward(TypeParam::device, misalign), r.s, tol));
        const auto [da, db] = c.backward(TypeParam::device, misalign);
        EXPECT_TRUE(all_within(da, r.da, [&](std::size_t i) { return r.a_tol[i]; }));
        EXPECT_TRUE(all_within(db, r.db, [&](std::size_t i) { return r.b_tol[i]; }));
      }
    }
  }
}

TYPED_TEST(PixelCosine, AccumulateAddsToWhatIsThere) {
  using T = typename TypeParam::Type;
  for (const std::size_t channels : {9U, 16U}) {
    const auto c = Case<T>::draw(5, channels, 4);
    const auto before = Random(5).integers<T>(5 * channels, -2, 2);
    const auto [da, db] = c.backward(TypeParam::device);
    const auto [sum_a, sum_b] = c.backward(TypeParam::device, 0, before);
    for (std::size_t i = 0; i < before.size(); ++i) {
      const double tol = 4 * unit_roundoff(dtype_of<T>()) * 4;
      EXPECT_NEAR(static_cast<double>(sum_a[i]), static_cast<double>(da[i]) + static_cast<double>(before[i]),
                  tol);
      EXPECT_NEAR(static_cast<double>(sum_b[i]), static_cast<double>(db[i]) + static_cast<double>(before[i]),
                  tol);
    }
  }
}

// grad_a may be null, and so may grad_b; the other one does not notice.
TYPED_TEST(PixelCosine, EitherGradientAlone) {
  using T = typename TypeParam::Type;
  const auto c = Case<T>::draw(3, 16, 7);
  const auto [da, db] = c.backward(TypeParam::device);
  for (const bool first : {true, false}) {
    Guarded<T> out(c.a.size());
    OnDevice on(TypeParam::device);
    on.run([&](auto stream) {
      kernels::pixel_cosine_backward(stream, {.dtype = dtype_of<T>(),
                                              .positions = 3,
                                              .channels = 16,
                                              .a = on(c.a),
                                              .b = on(c.b),
                                              .grad_similarity = on(c.grad),
                                              .grad_a = first ? on(out) : nullptr,
                                              .grad_b = first ? nullptr : on(out)});
    });
    EXPECT_TRUE(same_bits(out.values(), first ? da : db));
  }
}

TYPED_TEST(PixelCosine, Golden) {
  using T = typename TypeParam::Type;
  if constexpr (!std::is_same_v<T, bf16>) {
    const Case<T> c{4, 2, nhwc<T>(kGoldenF1), nhwc<T>(kGoldenF2), {}};
    EXPECT_TRUE(all_near(c.forward(TypeParam::device),
                         std::vector<double>{0.789352, 0.810679, -0.613941, -0.104685},
                         std::is_same_v<T, double> ? 2e-6 : 1e-5));
  }
}

TYPED_TEST(PixelCosine, SameBitsOnAnyNumberOfThreads) {
  using T = typename TypeParam::Type;
  const auto c = Case<T>::draw(TypeParam::device == Device::kCpu ? 3000 : 300, 37, 8);
  const auto s = c.forward(TypeParam::device);
  const auto [da, db] = c.backward(TypeParam::device);
  for_each_place(TypeParam::device, [&](Place place) {
    EXPECT_TRUE(same_bits(s, c.forward(place)));
    const auto [ta, tb] = c.backward(place);
    EXPECT_TRUE(same_bits(da, ta));
    EXPECT_TRUE(same_bits(db, tb));
  });
}

TYPED_TEST(PixelCosine, ZeroVectorsHaveSimilarityZeroAndNoGradient) {
  using T = typename TypeParam::Type;
  auto c = Case<T>::draw(3, 8, 9);
  std::fill_n(c.a.begin(), 8, T{});      // a zero against a vector
  std::fill_n(c.a.begin() + 8, 8, T{});  // both zero
  std::fill_n(c.b.begin() + 8, 8, T{});
  const auto s = c.forward(TypeParam::device);
  EXPECT_EQ(s[0], 0);
  EXPECT_EQ(s[1], 0);
  EXPECT_NE(s[2], 0);
  const auto [da, db] = c.backward(TypeParam::device);
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(static_cast<double>(da[i]), 0);
    EXPECT_EQ(static_cast<double>(db[i]), 0);
  }
  EXPECT_NE(static_cast<double>(da[16]), 0);
}

class PixelCosineProperty : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(PixelCosineProperty);

// cos(ax, by) = cos(x, y) for powers of two, and a gradient never points along its own vector.
TEST_P(PixelCosineProperty, ScaleInvariantAndOrthogonal) {
  const std::uint64_t end = base_seed() + (GetParam() == Device::kCpu ? 300 : 40);
  for (std::uint64_t seed = base_seed(); seed < end; ++seed) {
    COHORT_TRACE_SEED(seed);
    Random rng(seed);
    const auto channels = static_cast<std::size_t>(rng.integer(2, 40));
    auto c = Case<float>::draw(2, channels, seed);
    const auto s = c.forward(GetParam());
    const auto [da, db] = c.backward(GetParam());
    for (std::size_t n = 0; n < 2; ++n) {
      double dot = 0;
      for (std::size_t k = 0; k < channels; ++k) {
        dot += static_cast<double>(da[n * channels + k]) * static_cast<double>(c.a[n * channels + k]);
      }
      EXPECT_NEAR(dot, 0, 5e-6 * std::abs(static_cast<double>(c.grad[n])));
      EXPECT_LE(std::abs(s[n]), 1 + 1e-6F);
    }
    for (float& v : c.a) v *= 8;
    for (float& v : c.b) v *= 0.25F;
    EXPECT_TRUE(same_bits(s, c.forward(GetParam())));
  }
}

TEST_P(PixelCosineProperty, NaNReachesItsPositionOnly) {
  auto c = Case<float>::draw(3, 5, 2);
  const auto before = c.forward(GetParam());
  c.b[7] = std::numeric_limits<float>::quiet_NaN();
  const auto s = c.forward(GetParam());
  EXPECT_EQ(s[0], before[0]);
  EXPECT_TRUE(std::isnan(s[1]));
  EXPECT_EQ(s[2], before[2]);
}

class PixelCosineGradient : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(PixelCosineGradient);

TEST_P(PixelCosineGradient, AgreesWithDifferences) {
  auto c = Case<double>::draw(3, 6, 3);
  const auto [da, db] = c.backward(GetParam());
  const auto value = [&] {
    double sum = 0;
    const auto s = c.forward(GetParam());
    for (std::size_t n = 0; n < 3; ++n) sum += c.grad[n] * s[n];
    return sum;
  };
  for (auto [x, grad] : {std::pair{&c.a, &da}, std::pair{&c.b, &db}}) {
    for (std::size_t i = 0; i < x->size(); ++i) {
      const double at = (*x)[i];
      const double h = 1e-3 * std::max(1.0, std::abs(at));
      const auto f = [&](double step) {
        (*x)[i] = at + step * h;
        return value();
      };
      const double numeric = (8 * (f(1) - f(-1)) - (f(2) - f(-2))) / (12 * h);
      (*x)[i] = at;
      EXPECT_NEAR((*grad)[i], numeric, 1e-7);
    }
  }
}

}  // namespace
}  // namespace cohort::test
