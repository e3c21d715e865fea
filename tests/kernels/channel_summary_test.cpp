#include "kernels/channel_summary.h"

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
  using A = Accumulator<T>;
  std::size_t samples = 1, positions = 1, channels = 1;
  std::vector<T> x, scores, grad;

  static Case draw(std::size_t samples, std::size_t positions, std::size_t channels, std::uint64_t seed) {
    Random rng(seed);
    return {samples,
            positions,
            channels,
            rng.normals<T>(samples * positions * channels),
            rng.normals<T>(samples * channels, 0, 2),
            rng.normals<T>(2 * samples * positions)};
  }
  kernels::ChannelSummaryShape shape() const {
    return {static_cast<std::int64_t>(samples), static_cast<std::int64_t>(positions),
            static_cast<std::int64_t>(channels)};
  }

  struct Forward {
    std::vector<A> gate;
    std::vector<T> summary;
    std::vector<std::int32_t> argmax;
  };
  // Elements that every array starts after a 64-byte boundary: 0 lets a device use 16-byte accesses.
  Forward forward(Place place, std::size_t misalign = 0) const {
    const Guarded<T> in(x, misalign);
    Guarded<A> gate(samples * channels);
    Guarded<T> summary(2 * samples * positions, misalign);
    Guarded<std::int32_t> argmax(samples * positions);
    OnDevice on(place);
    on.run([&](auto stream) {
      kernels::channel_summary(stream, {.dtype = dtype_of<T>(),
                                        .shape = shape(),
                                        .x = on(in),
                                        .scores = on(scores),
                                        .gate = on(gate),
                                        .summary = on(summary),
                                        .argmax = on(argmax)});
    });
    EXPECT_TRUE(gate.intact() && summary.intact() && argmax.intact());
    return {gate.values(), summary.values(), argmax.values()};
  }

  struct Gradients {
    std::vector<T> x, scores;
  };
  // Added to `before` where that is given.
  Gradients backward(Place place, const Forward& f, std::size_t misalign = 0, const Gradients& before = {},
                     bool of_x = true, bool of_scores = true) const {
    const bool add = !before.x.empty();
    const Guarded<T> in(x, misalign);
    Guarded<T> grad_x = add ? Guarded<T>(before.x, misalign) : Guarded<T>(x.size(), misalign);
    Guarded<T> grad_scores = add ? Guarded<T>(before.scores) : Guarded<T>(scores.size());
    const GradMode mode = add ? GradMode::kAccumulate : GradMode::kOverwrite;
    OnDevice on(place);
    on.run([&](auto stream) {
      kernels::channel_summary_backward(stream, {.dtype = dtype_of<T>(),
                                                 .shape = shape(),
                                                 .x = on(in),
                                                 .gate = on(f.gate),
                                                 .argmax = on(f.argmax),
                                                 .grad_summary = on(grad),
                                                 .grad_x = of_x ? on(grad_x) : nullptr,
                                                 .grad_x_mode = mode,
                                                 .grad_scores = of_scores ? on(grad_scores) : nullptr,
                                                 .grad_scores_mode = mode});
    });
    EXPECT_TRUE(grad_x.intact() && grad_scores.intact());
    return {grad_x.values(), grad_scores.values()};
  }
};

double sigmoid(double score) {
  return 1 / (1 + std::exp(-score));
}

// Checks both passes element by element, in double.
template <class T>
void expect_reference(const Case<T>& c, Device device, std::size_t misalign) {
  const auto f = c.forward(device, misalign);
  const auto g = c.backward(device, f, misalign);
  const double u = unit_roundoff(accumulator_of(dtype_of<T>())), v = unit_roundoff(dtype_of<T>());
  const double factor = sum_factor(static_cast<std::int64_t>(c.channels), 1) + 8;
  for (std::size_t n = 0; n < c.samples; ++n) {
    std::vector<double> gate, sums(c.channels, 0.0), magnitudes(c.channels, 0.0);
    for (std::size_t k = 0; k < c.channels; ++k)
      gate.push_back(sigmoid(static_cast<double>(c.scores[n * c.channels + k])));
    for (std::size_t p = n * c.positions; p < (n + 1) * c.positions; ++p) {
      const auto value = [&](std::size_t k) {
        return gate[k] * static_cast<double>(c.x[p * c.channels + k]);
      };
      double mean = 0, magnitude = 0, best = value(0);
      for (std::size_t k = 0; k < c.channels; ++k) {
        mean += value(k) / static_cast<double>(c.channels);
        magnitude += std::abs(value(k)) / static_cast<double>(c.channels);
        best = std::max(best, value(k));
      }
      const auto at = static_cast<std::size_t>(f.argmax[p]);
      ASSERT_LT(at, c.channels);
      ASSERT_NEAR(value(at), best, 16 * u * std::abs(best)) << "another one is larger";
      ASSERT_NEAR(static_cast<double>(f.summary[2 * p]), mean, factor * u * magnitude + v * std::abs(mean));
      ASSERT_NEAR(static_cast<double>(f.summary[2 * p + 1]), best, (16 * u + v) * std::abs(best));
      for (std::size_t k = 0; k < c.channels; ++k) {
        const double d = static_cast<double>(c.grad[2 * p]) / static_cast<double>(c.channels) +
                         (k == at ? static_cast<double>(c.grad[2 * p + 1]) : 0);
        const double room =
            std::abs(static_cast<double>(c.grad[2 * p])) + std::abs(static_cast<double>(c.grad[2 * p + 1]));
        ASSERT_NEAR(static_cast<double>(g.x[p * c.channels + k]), gate[k] * d,
                    16 * u * room + v * std::abs(gate[k] * d));
        const double term = static_cast<double>(c.x[p * c.channels + k]) * d;
        sums[k] += term;
        magnitudes[k] += std::abs(static_cast<double>(c.x[p * c.channels + k])) * room;
      }
    }
    for (std::size_t k = 0; k < c.channels; ++k) {
      const double expected = gate[k] * (1 - gate[k]) * sums[k];
      const double terms = sum_factor(static_cast<std::int64_t>(c.positions), 1) + 16;
      ASSERT_NEAR(static_cast<double>(g.scores[n * c.channels + k]), expected,
                  terms * u * magnitudes[k] + v * std::abs(expected));
      ASSERT_NEAR(static_cast<double>(f.gate[n * c.channels + k]), gate[k], 8 * u);
    }
  }
}

template <class On>
class ChannelSummary : public TypedDeviceTest<On> {};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(ChannelSummary, Types, DeviceNames);

TYPED_TEST(ChannelSummary, MatchesReference) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = base_seed(30);
  for (const std::size_t positions : {1U, 3U, 49U, TypeParam::device == Device::kCpu ? 1030U : 600U}) {
    for (const std::size_t channels : {1U, 2U, 3U, 7U, 16U, 31U, 33U, 64U, 1030U}) {
      if (positions > 100 && channels > 40) continue;
      COHORT_TRACE_SEED(++seed);
      expect_reference(Case<T>::draw(2, positions, channels, seed), TypeParam::device, seed % 2);
    }
  }
}

// With gates of 1/2, halves of small integers: nothing is rounded, and the first of equals has the maximum.
TYPED_TEST(ChannelSummary, IntegersAreExact) {
  using T = typename TypeParam::Type;
  for (const std::size_t channels : {4U, 16U, 64U}) {
    auto c = Case<T>::draw(3, 5, channels, 2);
    Random rng(base_seed());
    c.x = rng.integers<T>(c.x.size(), -2, 2);
    c.scores.assign(c.scores.size(), T(0.0F));
    c.grad = rng.integers<T>(c.grad.size(), -2, 2);
    const auto f = c.forward(TypeParam::device);
    const typename Case<T>::Gradients before{rng.integers<T>(c.x.size(), -2, 2),
                                             rng.integers<T>(c.scores.size(), -2, 2)};
    const auto alone = c.backward(TypeParam::device, f), sum = c.backward(TypeParam::device, f, 0, before);
    for (std::size_t p = 0; p < 15; ++p) {
      double total = 0;
      std::size_t first = 0;
      for (std::size_t k = 0; k < channels; ++k) {
        const auto value = [&](std::size_t i) { return static_cast<double>(c.x[p * channels + i]); };
        total += value(k);
        if (value(k) > value(first)) first = k;
      }
      ASSERT_EQ(f.argmax[p], static_cast<std::int32_t>(first));
      ASSERT_EQ(static_cast<double>(f.summary[2 * p]),
                static_cast<double>(T(static_cast<float>(total / 2 / static_cast<double>(channels)))));
      ASSERT_EQ(static_cast<double>(f.summary[2 * p + 1]),
                static_cast<double>(c.x[p * channels + first]) / 2);
    }
    for (std::size_t i = 0; i < c.x.size(); ++i) {
      const double both = static_cast<double>(before.x[i]) + static_cast<double>(alone.x[i]);
      ASSERT_NEAR(static_cast<double>(sum.x[i]), both, 4 * unit_roundoff(dtype_of<T>()));
    }
    for (std::size_t i = 0; i < c.scores.size(); ++i) {
      const double both = static_cast<double>(before.scores[i]) + static_cast<double>(alone.scores[i]);
      ASSERT_NEAR(static_cast<double>(sum.scores[i]), both, 8 * unit_roundoff(dtype_of<T>()));
    }
  }
}

TYPED_TEST(ChannelSummary, SameBitsOnAnyNumberOfThreads) {
  using T = typename TypeParam::Type;
  const auto c = Case<T>::draw(7, 70, 36, 5);
  const auto f = c.forward(TypeParam::device);
  const auto g = c.backward(TypeParam::device, f);
  for_each_place(TypeParam::device, [&](Place place) {
    const auto again = c.forward(place);
    EXPECT_TRUE(same_bits(f.summary, again.summary));
    EXPECT_TRUE(same_bits(f.gate, again.gate));
    EXPECT_EQ(f.argmax, again.argmax);
    const auto gradients = c.backward(place, f);
    EXPECT_TRUE(same_bits(g.x, gradients.x));
    EXPECT_TRUE(same_bits(g.scores, gradients.scores));
  });
}

TYPED_TEST(ChannelSummary, EitherGradientAlone) {
  using T = typename TypeParam::Type;
  const auto c = Case<T>::draw(2, 9, 16, 6);
  const auto f = c.forward(TypeParam::device);
  const auto both = c.backward(TypeParam::device, f);
  EXPECT_TRUE(same_bits(both.x, c.backward(TypeParam::device, f, 0, {}, true, false).x));
  EXPECT_TRUE(same_bits(both.scores, c.backward(TypeParam::device, f, 0, {}, false, true).scores));
}

class ChannelSummaryEdge : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(ChannelSummaryEdge);

// The first NaN of a pixel is its maximum; other pixels do not notice. -inf everywhere is a maximum too.
TEST_P(ChannelSummaryEdge, NaNWins) {
  auto c = Case<float>::draw(1, 3, 33, 7);
  const auto clean = c.forward(GetParam());
  c.x[33 + 20] = c.x[33 + 7] = std::numeric_limits<float>::quiet_NaN();
  for (std::size_t k = 0; k < 33; ++k) c.x[66 + k] = -std::numeric_limits<float>::infinity();
  const auto f = c.forward(GetParam());
  EXPECT_EQ(f.argmax[0], clean.argmax[0]);
  EXPECT_EQ(f.summary[1], clean.summary[1]);
  EXPECT_EQ(f.argmax[1], 7);
  EXPECT_TRUE(std::isnan(f.summary[2]) && std::isnan(f.summary[3]));
  EXPECT_EQ(f.argmax[2], 0);
  EXPECT_EQ(f.summary[5], -std::numeric_limits<float>::infinity());
}

class ChannelSummaryGradient : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(ChannelSummaryGradient);

TEST_P(ChannelSummaryGradient, AgreesWithDifferences) {
  auto c = Case<double>::draw(2, 3, 5, 8);
  const auto f = c.forward(GetParam());
  const auto g = c.backward(GetParam(), f);
  const auto value = [&] {
    const auto at = c.forward(GetParam());
    EXPECT_EQ(at.argmax, f.argmax) << "a step crosses the kink of the maximum";
    double sum = 0;
    for (std::size_t i = 0; i < at.summary.size(); ++i) sum += at.summary[i] * c.grad[i];
    return sum;
  };
  for (auto [values, grad] : {std::pair{&c.x, &g.x}, std::pair{&c.scores, &g.scores}}) {
    for (std::size_t i = 0; i < values->size(); ++i) {
      const double at = (*values)[i], h = 1e-4;
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
