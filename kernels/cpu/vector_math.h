// Functions that the compiler vectorises inside `#pragma omp simd`: no table, no branch, no errno.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace cohort {

// e^x for float, at most 1.01 ulp from the exact value (tests/kernels/vector_math_test.cpp walks the range
// against double; in the denormal range the unit is the smallest denormal). exp(0) == 1, exp(-inf) == 0,
// exp(+inf) == inf, NaN stays NaN.
//
// x = n ln 2 + r with |r| <= ln 2 / 2 (Cody and Waite: ln 2 in two parts, the first with 9 trailing zero bits
// so that n * part is exact), e^r by the degree-7 polynomial of Cephes expf (Moshier), 2^n in two factors so
// that n from -150 to 128 needs no special case.
inline float exp_vectorised(float x) {
  constexpr float kRound = 0x1.8p23F;  // adding it leaves the integer part in the low bits
  x = x < -104.0F ? -104.0F : x;       // e^-104 < 2^-150: rounds to 0
  x = x > 89.0F ? 89.0F : x;           // e^89 > FLT_MAX: overflows to inf
  const float shifted = std::fma(x, 1.44269504088896341F, kRound);
  const float n = shifted - kRound;
  float r = std::fma(n, -0.693359375F, x);
  r = std::fma(n, 2.12194440e-4F, r);
  float p = 1.9875691500e-4F;
  p = std::fma(p, r, 1.3981999507e-3F);
  p = std::fma(p, r, 8.3334519073e-3F);
  p = std::fma(p, r, 4.1665795894e-2F);
  p = std::fma(p, r, 1.6666665459e-1F);
  p = std::fma(p, r, 5.0000001201e-1F);
  const float y = std::fma(p * r, r, r) + 1.0F;
  const std::int32_t exponent = std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(kRound);
  const std::int32_t half = exponent >> 1;
  const float first = std::bit_cast<float>((half + 127) << 23);
  const float second = std::bit_cast<float>((exponent - half + 127) << 23);
  return y * first * second;
}

// Double is the dtype of gradient checks, where accuracy counts and time does not.
inline double exp_vectorised(double x) {
  return std::exp(x);
}

}  // namespace cohort
