#include "kernels/base/philox.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

namespace cohort {
namespace {

using Words = std::array<std::uint32_t, 4>;

template <int kRounds>
Words philox(Words counter, std::array<std::uint32_t, 2> key) {
  const PhiloxCounter out =
      philox4x32<kRounds>({counter[0], counter[1], counter[2], counter[3]}, {key[0], key[1]});
  return {out.x, out.y, out.z, out.w};
}

// Random123's kat_vectors.
TEST(Philox, KnownAnswersTenRounds) {
  EXPECT_EQ(philox<10>({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox<10>({~0U, ~0U, ~0U, ~0U}, {~0U, ~0U}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox<10>({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, KnownAnswersSevenRounds) {
  EXPECT_EQ(philox<7>({0, 0, 0, 0}, {0, 0}), (Words{0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48}));
  EXPECT_EQ(philox<7>({~0U, ~0U, ~0U, ~0U}, {~0U, ~0U}),
            (Words{0x5207ddc2, 0x45165e59, 0x4d8ee751, 0x8c52f662}));
  EXPECT_EQ(philox<7>({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a}));
}

// Carries and word order.
TEST(Philox, KnownAnswersSingleWords) {
  EXPECT_EQ(philox<10>({1, 0, 0, 0}, {0, 0}), (Words{0xf8e4cca4, 0x5cb200db, 0xb1a574eb, 0x097eff67}));
  EXPECT_EQ(philox<10>({2, 0, 0, 0}, {0, 0}), (Words{0x04faa329, 0x51c732a6, 0x241513ad, 0x459135e4}));
  EXPECT_EQ(philox<10>({~0U, 0, 0, 0}, {0, 0}), (Words{0xc5b20a9d, 0x4434ec4e, 0x11bbe4fb, 0x2a1ef7a5}));
  EXPECT_EQ(philox<10>({0, 1, 0, 0}, {0, 0}), (Words{0x6ad0c5ec, 0xea236249, 0x73a459f5, 0x074944b3}));
  EXPECT_EQ(philox<10>({0, 0, 0, 0}, {0x2a, 0}), (Words{0x9ceaf053, 0x77f5493b, 0x12bf50ad, 0x5742b3d7}));
}

// The documented bit layout, frozen: the words of an address are Philox of exactly this counter and key.
TEST(Rng, AddressLayoutIsFrozen) {
  const RngAddress address{.seed = 0x1122334455667788ULL,
                           .purpose = RngPurpose::kAugment,
                           .member = 0xabcd,
                           .epoch = 0x01020304,
                           .sample = 0x0a0b0c0d,
                           .tag = 0x4321};
  Rng rng(address);
  for (std::uint32_t block = 0; block < 3; ++block) {
    const Words expected =
        philox<10>({0x04000000U + block, 0x0a0b0c0d, 0x01020304, 0x4321abcd}, {0x55667788, 0x11223344});
    for (const std::uint32_t word : expected) EXPECT_EQ(rng.bits(), word);
  }
}

TEST(Rng, BlockStartsInTheMiddleOfTheSequence) {
  const RngAddress address{.seed = 5, .sample = 3};
  Rng sequential(address);
  for (int i = 0; i < 12; ++i) sequential.bits();
  Rng random_access(address, 3);
  for (int i = 0; i < 9; ++i) EXPECT_EQ(random_access.bits(), sequential.bits());
}

TEST(Rng, AddressesAreInjective) {
  // Every combination of values at the edges of each field, and a dense block: the first 64 bits must differ.
  std::vector<std::pair<std::uint64_t, std::uint64_t>> seen;
  auto visit = [&](const RngAddress& address) {
    Rng rng(address);
    const std::uint64_t a = (std::uint64_t{rng.bits()} << 32) | rng.bits();
    const std::uint64_t b = (std::uint64_t{rng.bits()} << 32) | rng.bits();
    seen.emplace_back(a, b);
  };
  for (const std::uint64_t seed : {0ULL, 1ULL, 1ULL << 32, ~0ULL}) {
    for (int purpose = 1; purpose <= 8; ++purpose) {
      for (const std::uint32_t member : {0U, 1U, 31U, 0xffffU}) {
        for (const std::uint32_t tag : {0U, 1U, 11U, 0xffffU}) {
          for (std::uint32_t epoch = 0; epoch < 8; ++epoch) {
            for (std::uint32_t sample = 0; sample < 128; ++sample) {
              visit({seed, static_cast<RngPurpose>(purpose), member, epoch * 7919U, sample * 33554467U, tag});
            }
          }
        }
      }
    }
  }
  const std::size_t count = seen.size();
  EXPECT_EQ(count, 4U * 8U * 4U * 4U * 8U * 128U);
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(std::unique(seen.begin(), seen.end()) - seen.begin(), static_cast<std::ptrdiff_t>(count));
}

double chi_square(const std::vector<std::int64_t>& counts) {
  double total = 0.0;
  for (const std::int64_t count : counts) total += static_cast<double>(count);
  const double expected = total / static_cast<double>(counts.size());
  double sum = 0.0;
  for (const std::int64_t count : counts) {
    sum += (static_cast<double>(count) - expected) * (static_cast<double>(count) - expected) / expected;
  }
  return sum;
}

// Wilson-Hilferty quantile of the chi-square distribution at 1e-6 on either side.
double chi_square_quantile(double degrees, double z) {
  const double a = 2.0 / (9.0 * degrees);
  return degrees * std::pow(1.0 - a + z * std::sqrt(a), 3.0);
}

void expect_uniform(const std::vector<std::int64_t>& counts) {
  const double degrees = static_cast<double>(counts.size() - 1);
  const double value = chi_square(counts);
  EXPECT_LT(value, chi_square_quantile(degrees, 4.75)) << counts.size() << " cells";
  if (degrees > 8) {
    EXPECT_GT(value, chi_square_quantile(degrees, -4.75)) << counts.size() << " cells";
  }
}

TEST(Rng, BelowIsUniform) {
  for (const std::uint32_t n : {2U, 3U, 7U, 9U, 100U, 1000U}) {
    Rng rng({.seed = 17, .tag = n});
    std::vector<std::int64_t> counts(n);
    for (int i = 0; i < 1'000'000; ++i) {
      const std::uint32_t x = rng.below(n);
      ASSERT_LT(x, n);
      ++counts[x];
    }
    expect_uniform(counts);
  }
  Rng rng({.seed = 17});
  for (int i = 0; i < 100; ++i) EXPECT_EQ(rng.below(1), 0U);
}

// With n = 3 * 2^30 a plain modulo would draw the lower third twice as often.
TEST(Rng, BelowHasNoModuloBias) {
  constexpr std::uint32_t kThird = 1U << 30;
  Rng rng({.seed = 18});
  std::vector<std::int64_t> counts(3);
  for (int i = 0; i < 300'000; ++i) ++counts[rng.below(3 * kThird) / kThird];
  expect_uniform(counts);
}

TEST(Rng, UniformStaysInRangeAndIsUniform) {
  Rng rng({.seed = 19});
  std::vector<std::int64_t> counts(4096);
  for (int i = 0; i < 4'000'000; ++i) {
    const float u = rng.uniform();
    ASSERT_GE(u, 0.0F);
    ASSERT_LT(u, 1.0F);
    ++counts[static_cast<std::size_t>(u * 4096.0F)];
  }
  expect_uniform(counts);
}

TEST(Rng, NormalPassesKolmogorovSmirnovAndMoments) {
  constexpr int kCount = 1'000'000;
  Rng rng({.seed = 20});
  std::vector<double> x(kCount);
  for (double& value : x) value = static_cast<double>(rng.normal());
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
  for (const double v : x) {
    ASSERT_TRUE(std::isfinite(v));
    m1 += v;
    m2 += v * v;
    m3 += v * v * v;
    m4 += v * v * v * v;
  }
  const double root = std::sqrt(static_cast<double>(kCount));
  EXPECT_LT(std::abs(m1 / kCount), 5.0 / root);
  EXPECT_LT(std::abs(m2 / kCount - 1.0), 5.0 * std::sqrt(2.0) / root);
  EXPECT_LT(std::abs(m3 / kCount), 5.0 * std::sqrt(15.0) / root);
  EXPECT_LT(std::abs(m4 / kCount - 3.0), 5.0 * std::sqrt(96.0) / root);
  std::sort(x.begin(), x.end());
  double distance = 0.0;
  for (int i = 0; i < kCount; ++i) {
    const double cdf = 0.5 * std::erfc(-x[static_cast<std::size_t>(i)] / std::sqrt(2.0));
    distance = std::max({distance, std::abs(cdf - static_cast<double>(i) / kCount),
                         std::abs(cdf - static_cast<double>(i + 1) / kCount)});
  }
  EXPECT_LT(distance, 2.69 / root);  // Kolmogorov at 1e-6
}

// Fisher-Yates with below(): all 120 orders of 5 items.
TEST(Rng, ShufflesReachEveryOrderEqually) {
  std::vector<std::int64_t> counts(120);
  for (std::uint32_t draw = 0; draw < 240'000; ++draw) {
    Rng rng({.seed = 21, .purpose = RngPurpose::kShuffle, .epoch = draw});
    std::array<std::uint32_t, 5> order{0, 1, 2, 3, 4};
    for (std::uint32_t i = 4; i > 0; --i) std::swap(order[i], order[rng.below(i + 1)]);
    std::size_t code = 0;
    for (std::size_t i = 0; i < 5; ++i) {
      std::size_t smaller = 0;
      for (std::size_t j = i + 1; j < 5; ++j) smaller += order[j] < order[i];
      code = code * (5 - i) + smaller;
    }
    ++counts[code];
  }
  expect_uniform(counts);
}

// Neighbouring members, epochs, samples and tags give independent streams.
TEST(Rng, NeighbouringAddressesAreUncorrelated) {
  constexpr int kCount = 200'000;
  auto correlation = [](auto second) {
    double sum = 0.0;
    for (std::uint32_t i = 0; i < kCount; ++i) {
      const RngAddress address{.seed = 22, .member = i % 8U, .epoch = i / 997U, .sample = i, .tag = i % 5U};
      Rng a(address);
      Rng b(second(address));
      sum += (static_cast<double>(a.uniform()) - 0.5) * (static_cast<double>(b.uniform()) - 0.5) * 12.0;
    }
    return std::abs(sum) / std::sqrt(static_cast<double>(kCount));
  };
  EXPECT_LT(correlation([](RngAddress a) { return ++a.member, a; }), 5.0);
  EXPECT_LT(correlation([](RngAddress a) { return ++a.epoch, a; }), 5.0);
  EXPECT_LT(correlation([](RngAddress a) { return ++a.sample, a; }), 5.0);
  EXPECT_LT(correlation([](RngAddress a) { return ++a.tag, a; }), 5.0);
  EXPECT_LT(correlation([](RngAddress a) { return ++a.seed, a; }), 5.0);
  EXPECT_LT(correlation([](RngAddress a) { return a.purpose = RngPurpose::kDropout, a; }), 5.0);
}

}  // namespace
}  // namespace cohort
