#include "kernels/pixel_gate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/devices.h"
#include "tests/support/guard.h"
#include "tests/support/random.h"
#include "tests/support/shapes.h"
#include "tests/support/tolerance.h"

namespace cohort::test {
namespace {

template <class T>
struct Case {
  std::size_t positions = 1, channels = 1;
  std::vector<T> x, scores, grad;

  static Case draw(std::size_t positions, std::size_t channels, std::uint64_t seed) {
    Random rng(seed);
    return {positions, channels, rng.normals<T>(positions * channels), rng.normals<T>(positions, 0, 2),
            rng.normals<T>(positions * channels)};
  }

  // Elements that every array starts after a 64-byte boundary: 0 lets a device use 16-byte accesses.
  std::vector<T> forward(Place place, std::size_t misalign = 0) const {
    const Guarded<T> in(x, misalign);
    Guarded<T> y(x.size(), misalign);
    OnDevice on(place);
    on.run([&](auto stream) {
      kernels::pixel_gate(stream, {.dtype = dtype_of<T>(),
                                   .positions = static_cast<std::int64_t>(positions),
                                   .channels = static_cast<std::int64_t>(channels),
                                   .x = on(in),
                                   .scores = on(scores),
                                   .y = on(y)});
    });
    EXPECT_TRUE(y.intact());
    return y.values();
  }

  struct Gradients {
    std::vector<T> x, scores;
  };
  // Added to `before` where that is given.
  Gradients backward(Place place, std::size_t misalign = 0, const Gradients& before = {}, bool of_x = true,
                     bool of_scores = true) const {
    const bool add = !before.x.empty();
    const Guarded<T> in(x, misalign), g(grad, misalign);
    Guarded<T> grad_x = add ? Guarded<T>(before.x, misalign) : Guarded<T>(x.size(), misalign);
    Guarded<T> grad_scores = add ? Guarded<T>(before.scores) : Guarded<T>(scores.size());
    const GradMode mode = add ? GradMode::kAccumulate : GradMode::kOverwrite;
    OnDevice on(place);
    on.run([&](auto stream) {
      kernels::pixel_gate_backward(stream, {.dtype = dtype_of<T>(),
                                            .positions = static_cast<std::int64_t>(positions),
                                            .channels = static_cast<std::int64_t>(channels),
                                            .x = on(in),
                                            .scores = on(scores),
                                            .grad_y = on(g),
                                            .grad_x = of_x ? on(grad_x) : nullptr,
                                            .grad_x_mode = mode,
                                            .grad_scores = of_scores ? on(grad_scores) : nullptr,
                                            .grad_scores_mode = mode});
    });
    EXPECT_TRUE(grad_x.intact() && grad_scores.intact());
    return {grad_x.values(), grad_scores.values()};
  }
};

template <class On>
class PixelGate : public TypedDeviceTest<On> {};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(PixelGate, Types, DeviceNames);

TYPED_TEST(PixelGate, MatchesReference) {
  using T = typename TypeParam::Type;
  const double u = unit_roundoff(accumulator_of(dtype_of<T>())), v = unit_roundoff(dtype_of<T>());
  std::uint64_t seed = base_seed(40);
  for (const std::size_t positions : {1U, 3U, 49U, TypeParam::device == Device::kCpu ? 1030U : 130U}) {
    for (const std::size_t channels : {1U, 2U, 3U, 7U, 16U, 31U, 33U, 64U, 257U}) {
      COHORT_TRACE_SEED(++seed);
      const auto c = Case<T>::draw(positions, channels, seed);
      const auto y = c.forward(TypeParam::device, seed % 2);
      const auto g = c.backward(TypeParam::device, seed % 2);
      for (std::size_t n = 0; n < positions; ++n) {
        const double gate = 1 / (1 + std::exp(-static_cast<double>(c.scores[n])));
        double sum = 0, magnitude = 0;
        for (std::size_t k = n * channels; k < (n + 1) * channels; ++k) {
          const double x = static_cast<double>(c.x[k]), grad = static_cast<double>(c.grad[k]);
          ASSERT_NEAR(static_cast<double>(y[k]), gate * x, (16 * u + v) * std::abs(gate * x));
          ASSERT_NEAR(static_cast<double>(g.x[k]), gate * grad, (16 * u + v) * std::abs(gate * grad));
          sum += x * grad;
          magnitude += std::abs(x * grad);
        }
        const double expected = gate * (1 - gate) * sum;
        const double room = (sum_factor(static_cast<std::int64_t>(channels), 1) + 16) * u * magnitude;
        ASSERT_NEAR(static_cast<double>(g.scores[n]), expected, room + v * std::abs(expected));
      }
    }
  }
}

// A gate of 1/2: halves and quarters of small integers are exact.
TYPED_TEST(PixelGate, IntegersAreExact) {
  using T = typename TypeParam::Type;
  for (const std::size_t channels : {9U, 16U}) {
    auto c = Case<T>::draw(5, channels, 2);
    Random rng(base_seed());
    c.x = rng.integers<T>(c.x.size(), -2, 2);
    c.grad = rng.integers<T>(c.x.size(), -2, 2);
    c.scores.assign(5, T(0.0F));
    const typename Case<T>::Gradients before{rng.integers<T>(c.x.size(), -2, 2), rng.integers<T>(5, -2, 2)};
    const auto y = c.forward(TypeParam::device);
    const auto g = c.backward(TypeParam::device, 0, before);
    for (std::size_t n = 0; n < 5; ++n) {
      double sum = 0;
      for (std::size_t k = n * channels; k < (n + 1) * channels; ++k) {
        ASSERT_EQ(static_cast<double>(y[k]), static_cast<double>(c.x[k]) / 2);
        ASSERT_EQ(static_cast<double>(g.x[k]),
                  static_cast<double>(before.x[k]) + static_cast<double>(c.grad[k]) / 2);
        sum += static_cast<double>(c.x[k]) * static_cast<double>(c.grad[k]);
      }
      ASSERT_EQ(static_cast<double>(g.scores[n]), static_cast<double>(before.scores[n]) + sum / 4);
    }
  }
}

TYPED_TEST(PixelGate, SameBitsOnAnyNumberOfThreads) {
  using T = typename TypeParam::Type;
  const auto c = Case<T>::draw(700, 36, 5);
  const auto y = c.forward(TypeParam::device);
  const auto g = c.backward(TypeParam::device);
  for_each_place(TypeParam::device, [&](Place place) {
    EXPECT_TRUE(same_bits(y, c.forward(place)));
    const auto gradients = c.backward(place);
    EXPECT_TRUE(same_bits(g.x, gradients.x));
    EXPECT_TRUE(same_bits(g.scores, gradients.scores));
  });
}

TYPED_TEST(PixelGate, EitherGradientAlone) {
  using T = typename TypeParam::Type;
  const auto c = Case<T>::draw(9, 16, 6);
  const auto both = c.backward(TypeParam::device);
  EXPECT_TRUE(same_bits(both.x, c.backward(TypeParam::device, 0, {}, true, false).x));
  EXPECT_TRUE(same_bits(both.scores, c.backward(TypeParam::device, 0, {}, false, true).scores));
}

class PixelGateEdge : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(PixelGateEdge);

// A gate that is shut or open all the way has no slope, and makes no NaN of its own.
TEST_P(PixelGateEdge, SaturatedGates) {
  auto c = Case<float>::draw(3, 4, 7);
  const float inf = std::numeric_limits<float>::infinity();
  c.scores = {-inf, inf, std::numeric_limits<float>::quiet_NaN()};
  const auto y = c.forward(GetParam());
  const auto g = c.backward(GetParam());
  for (std::size_t k = 0; k < 4; ++k) {
    EXPECT_EQ(std::abs(y[k]), 0);
    EXPECT_EQ(y[4 + k], c.x[4 + k]);
    EXPECT_TRUE(std::isnan(y[8 + k]));
    EXPECT_EQ(g.x[4 + k], c.grad[4 + k]);
  }
  EXPECT_EQ(std::abs(g.scores[0]), 0);
  EXPECT_EQ(std::abs(g.scores[1]), 0);
  EXPECT_TRUE(std::isnan(g.scores[2]));
}

class PixelGateGradient : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(PixelGateGradient);

TEST_P(PixelGateGradient, AgreesWithDifferences) {
  auto c = Case<double>::draw(3, 5, 8);
  const auto g = c.backward(GetParam());
  const auto value = [&] {
    double sum = 0;
    const auto y = c.forward(GetParam());
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * c.grad[i];
    return sum;
  };
  for (auto [values, grad] : {std::pair{&c.x, &g.x}, std::pair{&c.scores, &g.scores}}) {
    for (std::size_t i = 0; i < values->size(); ++i) {
      const double at = (*values)[i], h = 1e-3;
      const auto moved = [&](double step) {
        (*values)[i] = at + step * h;
        return value();
      };
      const double numeric = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * h);
      (*values)[i] = at;
      EXPECT_NEAR((*grad)[i], numeric, 1e-7);
    }
  }
}

}  // namespace
}  // namespace cohort::test
