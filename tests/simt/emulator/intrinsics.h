// Loads with a cache hint, bit casts and arithmetic under CUDA's names. Fast-math functions are computed
// exactly: their last bits differ on a device.
#pragma once

#include <math.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "simt/emulator/engine.h"

// --- loads and stores with a cache hint ---
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
T __ldca(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T value) {
  *p = value;
}
template <class T>
void __stcg(T* p, T value) {
  *p = value;
}

// --- bits ---
inline int __float_as_int(float x) {
  return std::bit_cast<int>(x);
}
inline unsigned __float_as_uint(float x) {
  return std::bit_cast<unsigned>(x);
}
inline float __int_as_float(int x) {
  return std::bit_cast<float>(x);
}
inline float __uint_as_float(unsigned x) {
  return std::bit_cast<float>(x);
}
inline long long __double_as_longlong(double x) {
  return std::bit_cast<long long>(x);
}
inline double __longlong_as_double(long long x) {
  return std::bit_cast<double>(x);
}
inline int __popc(unsigned x) {
  return std::popcount(x);
}
inline int __popcll(unsigned long long x) {
  return std::popcount(x);
}
inline int __clz(int x) {
  return std::countl_zero(static_cast<unsigned>(x));
}
inline int __clzll(long long x) {
  return std::countl_zero(static_cast<unsigned long long>(x));
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __ffsll(long long x) {
  return __builtin_ffsll(x);
}
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= ((x >> i) & 1U) << (31 - i);
  return reversed;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((std::uint64_t{a} * b) >> 32);
}
inline int __mulhi(int a, int b) {
  return static_cast<int>((std::int64_t{a} * b) >> 32);
}

// --- one rounding each, never contracted into a fused multiply-add ---
namespace simt::detail {
template <class T>
T rounded(T x) {
  asm("" : "+m"(x));  // the compiler cannot see through it
  return x;
}
}  // namespace simt::detail
inline float __fadd_rn(float a, float b) {
  return simt::detail::rounded(a + b);
}
inline float __fsub_rn(float a, float b) {
  return simt::detail::rounded(a - b);
}
inline float __fmul_rn(float a, float b) {
  return simt::detail::rounded(a * b);
}
inline float __fdiv_rn(float a, float b) {
  return simt::detail::rounded(a / b);
}
inline float __fsqrt_rn(float x) {
  return std::sqrt(x);
}
inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline double __dadd_rn(double a, double b) {
  return simt::detail::rounded(a + b);
}
inline double __dsub_rn(double a, double b) {
  return simt::detail::rounded(a - b);
}
inline double __dmul_rn(double a, double b) {
  return simt::detail::rounded(a * b);
}
inline double __ddiv_rn(double a, double b) {
  return simt::detail::rounded(a / b);
}
inline double __fma_rn(double a, double b, double c) {
  return std::fma(a, b, c);
}

// --- conversions ---
// Saturating, NaN to 0: what the device does where C++ is undefined.
namespace simt::detail {
inline int saturated(double x) {
  if (x != x) return 0;
  if (x <= -2147483648.0) return std::numeric_limits<int>::min();
  return x >= 2147483647.0 ? std::numeric_limits<int>::max() : static_cast<int>(x);
}
}  // namespace simt::detail
inline int __float2int_rn(float x) {
  return simt::detail::saturated(std::nearbyint(static_cast<double>(x)));
}
inline int __float2int_rd(float x) {
  return simt::detail::saturated(std::floor(static_cast<double>(x)));
}
inline int __float2int_ru(float x) {
  return simt::detail::saturated(std::ceil(static_cast<double>(x)));
}
inline int __float2int_rz(float x) {
  return simt::detail::saturated(std::trunc(static_cast<double>(x)));
}

// --- functions that C++ lacks ---
inline float rsqrtf(float x) {
  return 1.0F / std::sqrt(x);
}
inline double rsqrt(double x) {
  return 1.0 / std::sqrt(x);
}
inline float __frsqrt_rn(float x) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x)));
}
inline float __frcp_rn(float x) {
  return 1.0F / x;
}
inline float fdividef(float a, float b) {
  return a / b;
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __saturatef(float x) {
  return x > 0.0F ? (x < 1.0F ? x : 1.0F) : 0.0F;
}

// glibc declares some of these names and exports none.
namespace simt::detail {
inline float fast_exp(float x) {
  return std::exp(x);
}
inline float fast_log(float x) {
  return std::log(x);
}
inline float fast_log2(float x) {
  return std::log2(x);
}
inline float fast_pow(float x, float y) {
  return std::pow(x, y);
}
inline float fast_sin(float x) {
  return std::sin(x);
}
inline float fast_cos(float x) {
  return std::cos(x);
}
}  // namespace simt::detail
#define __expf(x) simt::detail::fast_exp(x)
#define __logf(x) simt::detail::fast_log(x)
#define __log2f(x) simt::detail::fast_log2(x)
#define __powf(x, y) simt::detail::fast_pow(x, y)
#define __sinf(x) simt::detail::fast_sin(x)
#define __cosf(x) simt::detail::fast_cos(x)
#define __trap() \
  simt::detail::fail("__trap()", simt::detail::Site{__builtin_FILE(), __builtin_LINE(), __builtin_FUNCTION()})

// --- CUDA's global min and max ---
#define SIMT_MIN_MAX(type)          \
  inline type min(type a, type b) { \
    return b < a ? b : a;           \
  }                                 \
  inline type max(type a, type b) { \
    return a < b ? b : a;           \
  }
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned)
SIMT_MIN_MAX(long)
SIMT_MIN_MAX(unsigned long)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long long)
#undef SIMT_MIN_MAX
inline float min(float a, float b) {
  return std::fmin(a, b);
}
inline float max(float a, float b) {
  return std::fmax(a, b);
}
inline double min(double a, double b) {
  return std::fmin(a, b);
}
inline double max(double a, double b) {
  return std::fmax(a, b);
}
