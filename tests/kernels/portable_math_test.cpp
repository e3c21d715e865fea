#include "kernels/base/portable_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>

namespace cohort {
namespace {

TEST(PortableMath, Exp) {
  EXPECT_EQ(portable_exp(0.0), 1.0);
  EXPECT_EQ(portable_exp(-1e9), 0.0);
  for (double x = -700.0; x <= 700.0; x += 0.37) {
    EXPECT_NEAR(portable_exp(x) / std::exp(x), 1.0, 1e-15) << x;
  }
}

TEST(PortableMath, SineCosine) {
  for (int i = -1000; i <= 1000; ++i) {
    const double x = std::acos(-1.0) * i / 1000.0;
    double s = 0, c = 0;
    portable_sine_cosine(x, s, c);
    EXPECT_NEAR(s, std::sin(x), 1e-15) << x;
    EXPECT_NEAR(c, std::cos(x), 1e-15) << x;
  }
}

TEST(PortableMath, Turn) {
  for (std::uint32_t i = 0; i < (1U << 24); i += i % 7 == 0 ? 1 : 97) {
    const float v = static_cast<float>(i) * 0x1p-24F;
    float s = 0, c = 0;
    portable_turn(v, s, c);
    const double angle = 2.0 * std::acos(-1.0) * static_cast<double>(v);
    ASSERT_NEAR(static_cast<double>(s), std::sin(angle), 1.5e-7) << i;
    ASSERT_NEAR(static_cast<double>(c), std::cos(angle), 1.5e-7) << i;
  }
}

// Every argument that a normal draw can have near both ends, and a share of those between. Box-Muller takes
// the root of -2 ln u: a positive logarithm would be a NaN.
TEST(PortableMath, Log) {
  EXPECT_EQ(portable_log(1.0F), 0.0F);
  for (std::uint32_t i = 1; i <= (1U << 24); i += i < 5000 || i > (1U << 24) - 5000 ? 1 : 61) {
    const float u = static_cast<float>(i) * 0x1p-24F;
    const double expected = std::log(static_cast<double>(u));
    ASSERT_NEAR(static_cast<double>(portable_log(u)), expected, 2e-7 * std::abs(expected)) << i;
    ASSERT_LE(portable_log(u), 0.0F);
  }
  for (const float u : {0x1p-126F, 0x1p-24F, 2.0F, 3.0F, 1e38F}) {
    EXPECT_NEAR(static_cast<double>(portable_log(u)), std::log(static_cast<double>(u)),
                2e-7 * std::log(1e39));
  }
}

}  // namespace
}  // namespace cohort
