#include "kernels/cpu/vector_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace cohort {
namespace {

// Distance in units of the last place of the exact result (of the smallest denormal below the normal range).
double ulps(float actual, double exact) {
  const double ulp = std::max(std::exp2(std::floor(std::log2(exact)) - 23), 0x1p-149);
  return std::abs(static_cast<double>(actual) - exact) / ulp;
}

TEST(VectorMath, ExpIsWithinOneUlp) {
  double worst = 0;
  float worst_at = 0;
  double worst_denormal = 0;
  // Every 97th float of [-104, 88.7].
  const auto check = [&](float x) {
    const double exact = std::exp(static_cast<double>(x));
    const double error = ulps(exp_vectorised(x), exact);
    if (exact < 0x1p-126) {
      worst_denormal = std::max(worst_denormal, error);
    } else if (error > worst) {
      worst = error;
      worst_at = x;
    }
  };
  for (std::uint32_t bits = 0; bits < std::bit_cast<std::uint32_t>(104.0F); bits += 97) {
    const float x = std::bit_cast<float>(bits);
    check(-x);
    if (x < 88.7F) check(x);
  }
  EXPECT_LE(worst, 1.01) << "at " << worst_at;
  EXPECT_LE(worst_denormal, 1.01);
  RecordProperty("worst_ulp", std::to_string(worst));
}

TEST(VectorMath, ExpAtItsEdges) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(exp_vectorised(0.0F), 1.0F);
  EXPECT_EQ(exp_vectorised(-0.0F), 1.0F);
  EXPECT_EQ(exp_vectorised(-kInf), 0.0F);
  EXPECT_EQ(exp_vectorised(std::numeric_limits<float>::lowest()), 0.0F);
  EXPECT_EQ(exp_vectorised(kInf), kInf);
  EXPECT_EQ(exp_vectorised(100.0F), kInf);
  EXPECT_TRUE(std::isfinite(exp_vectorised(88.72F)));
  EXPECT_TRUE(std::isnan(exp_vectorised(std::numeric_limits<float>::quiet_NaN())));
}

// The compiler's vector code and a single call give the same bits.
TEST(VectorMath, VectorAndScalarCodeAgree) {
  std::vector<float> x(1003), y(1003);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = -110.0F + 0.21F * static_cast<float>(i);
#pragma omp simd
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = exp_vectorised(x[i]);
  for (std::size_t i = 0; i < x.size(); ++i) {
    volatile float one = x[i];
    ASSERT_EQ(y[i], exp_vectorised(one)) << x[i];
  }
}

}  // namespace
}  // namespace cohort
