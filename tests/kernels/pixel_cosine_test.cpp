#include "kernels/pixel_cosine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

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

  std::vector<A> forward(CpuStream stream = {}) const {
    Guarded<A> s(positions);
    kernels::pixel_cosine(stream, {.dtype = dtype_of<T>(),
                                   .positions = static_cast<std::int64_t>(positions),
                                   .channels = static_cast<std::int64_t>(channels),
                                   .a = a.data(),
                                   .b = b.data(),
                                   .similarity = s.data()});
    EXPECT_TRUE(s.intact());
    return s.values();
  }

  // Gradients of a and b; each is added to `before` when given.
  std::pair<std::vector<T>, std::vector<T>> backward(CpuStream stream = {},
                                                     const std::vector<T>& before = {}) const {
    Guarded<T> da(a.size(), 1);
    Guarded<T> db(a.size(), 2);
    if (!before.empty()) da = db = Guarded<T>(before);
    const GradMode mode = before.empty() ? GradMode::kOverwrite : GradMode::kAccumulate;
    kernels::pixel_cosine_backward(stream, {.dtype = dtype_of<T>(),
                                            .positions = static_cast<std::int64_t>(positions),
                                            .channels = static_cast<std::int64_t>(channels),
                                            .a = a.data(),
                                            .b = b.data(),
                                            .grad_similarity = grad.data(),
                                            .grad_a = da.data(),
                                            .grad_a_mode = mode,
                                            .grad_b = db.data(),
                                            .grad_b_mode = mode});
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

template <class T>
class PixelCosine : public ::testing::Test {};
using Types = ::testing::Types<float, bf16, double>;
TYPED_TEST_SUITE(PixelCosine, Types);

TYPED_TEST(PixelCosine, MatchesReference) {
  std::uint64_t seed = base_seed(10);
  for (const std::size_t positions : {1U, 3U, 49U, 130U}) {
    for (const std::size_t channels : {1U, 2U, 3U, 7U, 31U, 33U, 64U, 257U, 512U}) {
      COHORT_TRACE_SEED(++seed);
      const auto c = Case<TypeParam>::draw(positions, channels, seed);
      const Reference r = reference(c);
      const double u = unit_roundoff(accumulator_of(dtype_of<TypeParam>()));
      const double tol = (sum_factor(static_cast<std::int64_t>(channels), 4) + 8) * u;
      EXPECT_TRUE(all_near(c.forward(), r.s, tol));
      const auto [da, db] = c.backward();
      EXPECT_TRUE(all_within(da, r.da, [&](std::size_t i) { return r.a_tol[i]; }));
      EXPECT_TRUE(all_within(db, r.db, [&](std::size_t i) { return r.b_tol[i]; }));
    }
  }
}

TYPED_TEST(PixelCosine, AccumulateAddsToWhatIsThere) {
  const auto c = Case<TypeParam>::draw(5, 9, 4);
  const auto before = Random(5).integers<TypeParam>(45, -2, 2);
  const auto [da, db] = c.backward();
  const auto [sum_a, sum_b] = c.backward({}, before);
  for (std::size_t i = 0; i < 45; ++i) {
    const double tol = 4 * unit_roundoff(dtype_of<TypeParam>()) * 4;
    EXPECT_NEAR(static_cast<double>(sum_a[i]), static_cast<double>(da[i]) + static_cast<double>(before[i]),
                tol);
    EXPECT_NEAR(static_cast<double>(sum_b[i]), static_cast<double>(db[i]) + static_cast<double>(before[i]),
                tol);
  }
}

TYPED_TEST(PixelCosine, Golden) {
  if constexpr (!std::is_same_v<TypeParam, bf16>) {
    const Case<TypeParam> c{4, 2, nhwc<TypeParam>(kGoldenF1), nhwc<TypeParam>(kGoldenF2), {}};
    EXPECT_TRUE(all_near(c.forward(), std::vector<double>{0.789352, 0.810679, -0.613941, -0.104685},
                         std::is_same_v<TypeParam, double> ? 2e-6 : 1e-5));
  }
}

TYPED_TEST(PixelCosine, SameBitsOnAnyNumberOfThreads) {
  const auto c = Case<TypeParam>::draw(3000, 37, 8);
  const auto s = c.forward();
  const auto [da, db] = c.backward();
  for_each_thread_count([&](CpuStream stream) {
    EXPECT_TRUE(same_bits(s, c.forward(stream)));
    const auto [ta, tb] = c.backward(stream);
    EXPECT_TRUE(same_bits(da, ta));
    EXPECT_TRUE(same_bits(db, tb));
  });
}

TYPED_TEST(PixelCosine, ZeroVectorsHaveSimilarityZeroAndNoGradient) {
  auto c = Case<TypeParam>::draw(3, 8, 9);
  std::fill_n(c.a.begin(), 8, TypeParam{});      // a zero against a vector
  std::fill_n(c.a.begin() + 8, 8, TypeParam{});  // both zero
  std::fill_n(c.b.begin() + 8, 8, TypeParam{});
  const auto s = c.forward();
  EXPECT_EQ(s[0], 0);
  EXPECT_EQ(s[1], 0);
  EXPECT_NE(s[2], 0);
  const auto [da, db] = c.backward();
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(static_cast<double>(da[i]), 0);
    EXPECT_EQ(static_cast<double>(db[i]), 0);
  }
  EXPECT_NE(static_cast<double>(da[16]), 0);
}

// cos(ax, by) = cos(x, y) for powers of two, and a gradient never points along its own vector.
TEST(PixelCosineProperty, ScaleInvariantAndOrthogonal) {
  for (std::uint64_t seed = base_seed(); seed < base_seed() + 300; ++seed) {
    COHORT_TRACE_SEED(seed);
    Random rng(seed);
    const auto channels = static_cast<std::size_t>(rng.integer(2, 40));
    auto c = Case<float>::draw(2, channels, seed);
    const auto s = c.forward();
    const auto [da, db] = c.backward();
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
    EXPECT_TRUE(same_bits(s, c.forward()));
  }
}

TEST(PixelCosineProperty, NaNReachesItsPositionOnly) {
  auto c = Case<float>::draw(3, 5, 2);
  const auto before = c.forward();
  c.b[7] = std::numeric_limits<float>::quiet_NaN();
  const auto s = c.forward();
  EXPECT_EQ(s[0], before[0]);
  EXPECT_TRUE(std::isnan(s[1]));
  EXPECT_EQ(s[2], before[2]);
}

TEST(PixelCosineGradient, AgreesWithDifferences) {
  auto c = Case<double>::draw(3, 6, 3);
  const auto [da, db] = c.backward();
  const auto value = [&] {
    double sum = 0;
    const auto s = c.forward();
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
