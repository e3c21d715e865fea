#include "kernels/attention_reweight.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/devices.h"
#include "tests/support/guard.h"
#include "tests/support/random.h"
#include "tests/support/shapes.h"
#include "tests/support/tolerance.h"

namespace cohort::test {
namespace {

template <class A>
std::pair<std::vector<A>, std::vector<A>> weights(Place place, const std::vector<A>& s, std::size_t samples) {
  Guarded<A> co(s.size());
  Guarded<A> di(s.size());
  OnDevice on(place);
  on.run([&](auto stream) {
    kernels::attention_weights(stream, {.dtype = dtype_of<A>(),
                                        .samples = static_cast<std::int64_t>(samples),
                                        .positions = static_cast<std::int64_t>(s.size() / samples),
                                        .similarity = on(s),
                                        .co = on(co),
                                        .di = on(di)});
  });
  EXPECT_TRUE(co.intact() && di.intact());
  return {co.values(), di.values()};
}

template <class On>
class AttentionWeights : public TypedDeviceTest<On> {};
using Maps = OnDevices<float, double>;
TYPED_TEST_SUITE(AttentionWeights, Maps, DeviceNames);

TYPED_TEST(AttentionWeights, Golden) {
  using T = typename TypeParam::Type;
  const double tol = std::is_same_v<T, double> ? 2e-6 : 1e-5;
  std::vector<T> s;
  for (const double v : {0.789352, 0.810679, -0.613941, -0.104685}) s.push_back(static_cast<T>(v));
  const auto [co, di] = weights(TypeParam::device, s, 2);
  EXPECT_TRUE(all_near(co, std::vector<double>{0.994070, 1.005919, 0.602561, 1.397408}, tol));
  // 1 - S carries the 6 decimals of S with a relative error of 1e-6 / 0.2.
  EXPECT_TRUE(all_near(di, std::vector<double>{1.053269, 0.946631, 1.187312, 0.812673}, tol + 5e-6));
}

TYPED_TEST(AttentionWeights, MatchesReferenceAndAveragesToOne) {
  using T = typename TypeParam::Type;
  for (const std::size_t positions : {1U, 4U, 31U, 49U, 64U, 1024U}) {
    const std::size_t samples = 7;
    const auto s = Random(base_seed(positions)).uniforms<T>(samples * positions, -0.9, 0.9);
    const auto [co, di] = weights(TypeParam::device, s, samples);
    for (std::size_t n = 0; n < samples; ++n) {
      double mean = 0;
      for (std::size_t p = 0; p < positions; ++p)
        mean += static_cast<double>(s[n * positions + p]) / static_cast<double>(positions);
      for (std::size_t p = 0; p < positions; ++p) {
        const double v = static_cast<double>(s[n * positions + p]);
        const double tol = 2e-5 * unit_roundoff(dtype_of<T>()) / 0x1p-24;
        EXPECT_NEAR(static_cast<double>(co[n * positions + p]), (1 + v) / (mean + 1 + 1e-5), tol);
        EXPECT_NEAR(static_cast<double>(di[n * positions + p]), (1 - v) / (1 - mean + 1e-5), tol);
      }
    }
    for_each_place(TypeParam::device, [&](Place place) {
      const auto [tc, td] = weights(place, s, samples);
      EXPECT_TRUE(same_bits(co, tc));
      EXPECT_TRUE(same_bits(di, td));
    });
  }
}

// Identical maps have no disagreement, opposite ones no agreement: weight 1, not 0. Each sample for itself.
TYPED_TEST(AttentionWeights, FlatSamplesWeighOne) {
  using T = typename TypeParam::Type;
  using V = std::vector<T>;
  const V s = {1, 1, -1, -1, static_cast<T>(0.99999), 1, 0, 0.5};
  const auto [co, di] = weights(TypeParam::device, s, 4);
  EXPECT_EQ(V(di.begin(), di.begin() + 2), (V{1, 1}));
  EXPECT_EQ(V(co.begin() + 2, co.begin() + 4), (V{1, 1}));
  EXPECT_EQ(V(di.begin() + 4, di.begin() + 6), (V{1, 1}));
  EXPECT_GT(di[6], di[7]);
  EXPECT_LT(co[6], co[7]);
}

// co or di may be null; the other one does not notice.
TYPED_TEST(AttentionWeights, EitherMapAlone) {
  using T = typename TypeParam::Type;
  const auto s = Random(base_seed()).uniforms<T>(3 * 49, -0.9, 0.9);
  const auto [co, di] = weights(TypeParam::device, s, 3);
  for (const bool first : {true, false}) {
    Guarded<T> out(s.size());
    OnDevice on(TypeParam::device);
    on.run([&](auto stream) {
      kernels::attention_weights(stream, {.dtype = dtype_of<T>(),
                                          .samples = 3,
                                          .positions = 49,
                                          .similarity = on(s),
                                          .co = first ? on(out) : nullptr,
                                          .di = first ? nullptr : on(out)});
    });
    EXPECT_TRUE(same_bits(out.values(), first ? co : di));
  }
}

template <class T>
struct Pool {
  using A = Accumulator<T>;
  std::size_t samples = 1, positions = 1, channels = 1;
  bool relu = true;
  std::vector<T> features, grad;
  std::vector<A> map;

  static Pool draw(std::size_t samples, std::size_t positions, std::size_t channels, bool relu,
                   std::uint64_t seed) {
    Random rng(seed);
    return {samples,
            positions,
            channels,
            relu,
            rng.normals<T>(samples * positions * channels),
            rng.normals<T>(samples * channels),
            rng.uniforms<A>(samples * positions, 0, 2)};
  }
  // Elements that every array starts after a 64-byte boundary: 0 lets a device use 16-byte accesses.
  std::vector<T> forward(Place place, std::size_t misalign = 0) const {
    const Guarded<T> f(features, misalign);
    Guarded<T> pooled(samples * channels, 3 * misalign);
    OnDevice on(place);
    on.run([&](auto stream) {
      kernels::attention_pool(stream, {.dtype = dtype_of<T>(),
                                       .samples = static_cast<std::int64_t>(samples),
                                       .positions = static_cast<std::int64_t>(positions),
                                       .channels = static_cast<std::int64_t>(channels),
                                       .relu = relu,
                                       .features = on(f),
                                       .weights = on(map),
                                       .pooled = on(pooled)});
    });
    EXPECT_TRUE(pooled.intact());
    return pooled.values();
  }
  std::vector<T> backward(Place place, std::size_t misalign = 0, const std::vector<T>& before = {}) const {
    const Guarded<T> f(features, misalign);
    Guarded<T> grad_features(features.size(), misalign);
    if (!before.empty()) grad_features = Guarded<T>(before, misalign);
    OnDevice on(place);
    on.run([&](auto stream) {
      kernels::attention_pool_backward(
          stream, {.dtype = dtype_of<T>(),
                   .samples = static_cast<std::int64_t>(samples),
                   .positions = static_cast<std::int64_t>(positions),
                   .channels = static_cast<std::int64_t>(channels),
                   .relu = relu,
                   .features = relu ? on(f) : nullptr,
                   .weights = on(map),
                   .grad_pooled = on(grad),
                   .grad_features = on(grad_features),
                   .grad_mode = before.empty() ? GradMode::kOverwrite : GradMode::kAccumulate});
    });
    EXPECT_TRUE(grad_features.intact());
    return grad_features.values();
  }
};

template <class On>
class AttentionPool : public TypedDeviceTest<On> {};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(AttentionPool, Types, DeviceNames);

TYPED_TEST(AttentionPool, MatchesReference) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = base_seed(20);
  const double u = unit_roundoff(dtype_of<T>());
  for (const std::size_t positions : {1U, 2U, 49U, 64U}) {
    for (const std::size_t channels : {1U, 3U, 8U, 31U, 64U, 257U, 1024U, 1030U}) {
      COHORT_TRACE_SEED(++seed);
      const auto c = Pool<T>::draw(3, positions, channels, seed % 2 == 0, seed);
      const std::size_t misalign = seed / 2 % 2;
      const auto pooled = c.forward(TypeParam::device, misalign);
      const auto grad = c.backward(TypeParam::device, misalign);
      for (std::size_t n = 0; n < 3; ++n) {
        for (std::size_t k = 0; k < channels; ++k) {
          double sum = 0;
          double magnitude = 0;
          for (std::size_t p = 0; p < positions; ++p) {
            const std::size_t at = (n * positions + p) * channels + k;
            const double f = static_cast<double>(c.features[at]);
            const double a = static_cast<double>(c.map[n * positions + p]) / static_cast<double>(positions);
            const double act = c.relu ? std::max(f, 0.0) : f;
            sum += a * act;
            magnitude += a * std::abs(act);
            const double g = c.relu && f <= 0 ? 0 : a * static_cast<double>(c.grad[n * channels + k]);
            ASSERT_NEAR(static_cast<double>(grad[at]), g, 6 * u * std::abs(g));
          }
          const double tol = tolerance({.out = dtype_of<T>(), .n = 64}, magnitude, sum);
          ASSERT_NEAR(static_cast<double>(pooled[n * channels + k]), sum, tol);
        }
      }
    }
  }
}

TYPED_TEST(AttentionPool, IntegersAreExact) {
  using T = typename TypeParam::Type;
  for (const std::size_t channels : {33U, 48U}) {
    Random rng(base_seed());
    const std::size_t count = 8 * channels;
    Pool<T> c{2, 4, channels, true, rng.integers<T>(count, -2, 2), rng.integers<T>(2 * channels, -2, 2), {}};
    c.map = rng.integers<typename Pool<T>::A>(8, 0, 2);
    const auto pooled = c.forward(TypeParam::device);
    const auto before = rng.integers<T>(count, -2, 2);
    const auto grad = c.backward(TypeParam::device, 0, before);
    for (std::size_t n = 0; n < 2; ++n) {
      for (std::size_t k = 0; k < channels; ++k) {
        double sum = 0;
        for (std::size_t p = 0; p < 4; ++p) {
          const std::size_t at = (n * 4 + p) * channels + k;
          const double f = static_cast<double>(c.features[at]);
          const double a = static_cast<double>(c.map[n * 4 + p]);
          if (f > 0) sum += a * f;
          const double g = f > 0 ? a / 4 * static_cast<double>(c.grad[n * channels + k]) : 0;
          ASSERT_EQ(static_cast<double>(grad[at]), static_cast<double>(before[at]) + g);
        }
        ASSERT_EQ(static_cast<double>(pooled[n * channels + k]), sum / 4);
      }
    }
  }
}

TYPED_TEST(AttentionPool, SameBitsOnAnyNumberOfThreads) {
  using T = typename TypeParam::Type;
  const auto c = Pool<T>::draw(37, 64, 65, true, 3);
  const auto pooled = c.forward(TypeParam::device);
  const auto grad = c.backward(TypeParam::device);
  for_each_place(TypeParam::device, [&](Place place) {
    EXPECT_TRUE(same_bits(pooled, c.forward(place)));
    EXPECT_TRUE(same_bits(grad, c.backward(place)));
  });
}

class AttentionPoolEdge : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(AttentionPoolEdge);
class AttentionPoolGradient : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(AttentionPoolGradient);
class AttentionContract : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(AttentionContract);

TEST_P(AttentionPoolEdge, NaNPassesTheRelu) {
  auto c = Pool<float>::draw(2, 3, 4, true, 1);
  c.features[5] = std::numeric_limits<float>::quiet_NaN();  // sample 0, channel 1
  const auto pooled = c.forward(GetParam());
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(std::isnan(pooled[i]), i == 1);
}

// The gradient of ReLU at exactly 0 is 0, at NaN that of a positive number.
TEST_P(AttentionPoolEdge, KinkOfTheRelu) {
  auto c = Pool<double>::draw(1, 2, 2, true, 1);
  c.features = {0.0, -0.0, 1.0, std::numeric_limits<double>::quiet_NaN()};
  const auto grad = c.backward(GetParam());
  EXPECT_EQ(grad[0], 0);
  EXPECT_EQ(grad[1], 0);
  EXPECT_EQ(grad[2], c.map[1] * 0.5 * c.grad[0]);
  EXPECT_EQ(grad[3], c.map[1] * 0.5 * c.grad[1]);
}

TEST_P(AttentionPoolGradient, AgreesWithDifferences) {
  for (const bool relu : {true, false}) {
    auto c = Pool<double>::draw(2, 3, 4, relu, 6);
    for (double& f : c.features) f += f < 0 ? -0.05 : 0.05;  // 10 steps away from the kink
    const auto grad = c.backward(GetParam());
    for (std::size_t i = 0; i < c.features.size(); ++i) {
      const double at = c.features[i];
      const double h = 1e-3;
      const auto value = [&](double step) {
        c.features[i] = at + step * h;
        double sum = 0;
        const auto pooled = c.forward(GetParam());
        for (std::size_t k = 0; k < pooled.size(); ++k) sum += pooled[k] * c.grad[k];
        return sum;
      };
      const double numeric = (8 * (value(1) - value(-1)) - (value(2) - value(-2))) / (12 * h);
      c.features[i] = at;
      EXPECT_NEAR(grad[i], numeric, 1e-7);
    }
  }
}

TEST_P(AttentionContract, MapsAreNotBf16) {
  OnDevice on(GetParam());
  on.run(
      [](auto stream) { EXPECT_THROW(kernels::attention_weights(stream, {.dtype = DType::bf16}), Error); });
}

}  // namespace
}  // namespace cohort::test
