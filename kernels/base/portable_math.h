// Elementary functions that give the same bits on every device and compiler: additions, divisions, square
// roots and explicit fused multiply-adds only, which IEEE 754 rounds in one way. The functions of <cmath>
// differ between libm and CUDA in their last bits, and a compiler may or may not contract a * b + c; a draw
// that is then rounded to an integer (a crop's box, the source of a rotated pixel) would differ by a whole
// pixel.
//
// Rule for the callers: a product that meets an addition goes through std::fma.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/base/host_device.h"

namespace cohort {

// e^x, |x| <= 700 (0 below), relative error below 1e-15.
COHORT_HOST_DEVICE inline double portable_exp(double x) {
  if (x < -700.0) return 0.0;
  const double n = std::floor(std::fma(x, 1.4426950408889634, 0.5));
  double r = std::fma(-n, 0x1.62e42fefa3800p-1, x);  // ln 2 in two parts: n times the first is exact
  r = std::fma(-n, 0x1.ef35793c76730p-45, r);
  double p = 1.0;
  for (int k = 13; k >= 1; --k) p = std::fma(r / static_cast<double>(k), p, 1.0);
  return p * std::bit_cast<double>((static_cast<std::int64_t>(n) + 1023) << 52);
}

// |x| <= pi, error below 1e-15.
COHORT_HOST_DEVICE inline void portable_sine_cosine(double x, double& sine, double& cosine) {
  const double square = -(x * x);
  double s = 1.0, c = 1.0;
  for (int k = 28; k >= 2; k -= 2) {
    const double n = static_cast<double>(k);
    s = std::fma(square / (n * (n + 1.0)), s, 1.0);
    c = std::fma(square / (n * (n - 1.0)), c, 1.0);
  }
  sine = x * s;
  cosine = c;
}

// Sine and cosine of 2 pi v for v in [0, 1), a multiple of 2^-24: v is reduced to an eighth of a turn without
// any rounding. Error below 1.5e-7. Polynomials of Cephes sinf and cosf (Moshier).
COHORT_HOST_DEVICE inline void portable_turn(float v, float& sine, float& cosine) {
  const float quarter = std::floor(4.0F * v + 0.5F);
  const float x = 6.2831853F * (v - 0.25F * quarter);
  const float z = x * x;
  float s = std::fma(z, -1.9515295891e-4F, 8.3321608736e-3F);
  s = std::fma(z, s, -1.6666654611e-1F);
  s = std::fma(z * s, x, x);
  float c = std::fma(z, 2.443315711809948e-5F, -1.388731625493765e-3F);
  c = std::fma(z, c, 4.166664568298827e-2F);
  c = std::fma(z * z, c, std::fma(z, -0.5F, 1.0F));
  const int q = static_cast<int>(quarter) & 3;
  const float a = (q & 1) == 0 ? s : c;
  const float b = (q & 1) == 0 ? c : s;
  sine = (q & 2) == 0 ? a : -a;
  cosine = q == 1 || q == 2 ? -b : b;
}

// ln u for a normal float u > 0; at most 0 for u <= 1, exactly 0 at 1. Relative error below 2e-7. Polynomial
// of Cephes logf (Moshier).
COHORT_HOST_DEVICE inline float portable_log(float u) {
  std::uint32_t bits = std::bit_cast<std::uint32_t>(u);
  constexpr std::uint32_t kRootOfHalf = 0x3f3504f3U;
  const std::int32_t exponent = static_cast<std::int32_t>(bits - kRootOfHalf) >> 23;
  bits -= static_cast<std::uint32_t>(exponent) << 23;
  const float x = std::bit_cast<float>(bits) - 1.0F;  // u = (1 + x) 2^exponent, sqrt(1/2) <= 1 + x < sqrt(2)
  const float e = static_cast<float>(exponent);
  constexpr float kTerms[] = {-1.1514610310e-1F, 1.1676998740e-1F, -1.2420140846e-1F, 1.4249322787e-1F,
                              -1.6668057665e-1F, 2.0000714765e-1F, -2.4999993993e-1F, 3.3333331174e-1F};
  float p = 7.0376836292e-2F;
  for (const float term : kTerms) p = std::fma(p, x, term);
  const float z = x * x;
  float y = std::fma(e, -2.12194440e-4F, p * x * z);
  y = std::fma(z, -0.5F, y);
  return std::fma(e, 0.693359375F, x + y);
}

}  // namespace cohort
