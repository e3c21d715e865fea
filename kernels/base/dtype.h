// Element types, bfloat16 on both sides, and the one way from a run-time dtype to a template argument.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/base/error.h"
#include "kernels/base/host_device.h"

namespace cohort {

enum class DType : std::uint8_t { f32, bf16, f64, u8, i32, i64 };

// bfloat16: the upper half of an IEEE float. Conversion from float rounds to nearest even; NaN stays NaN,
// with its sign and upper payload. Integer arithmetic, so that host and device agree in every bit (the
// device's own conversion makes every NaN 0x7fff).
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  COHORT_HOST_DEVICE explicit bf16(float x) {
    const std::uint32_t u = __builtin_bit_cast(std::uint32_t, x);
    const std::uint32_t rounded = (u + 0x7fffU + ((u >> 16) & 1U)) >> 16;
    const bool nan = (u & 0x7fffffffU) > 0x7f800000U;
    bits = static_cast<std::uint16_t>(nan ? ((u >> 16) | 0x40U) : rounded);
  }
  COHORT_HOST_DEVICE explicit bf16(double x) : bf16(static_cast<float>(x)) {}
  COHORT_HOST_DEVICE explicit operator float() const {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16);
  }
  COHORT_HOST_DEVICE explicit operator double() const {
    return static_cast<double>(static_cast<float>(*this));
  }
};

constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
      return 2;
    case DType::u8:
      return 1;
  }
  return 0;
}

constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f64:
      return "f64";
    case DType::u8:
      return "u8";
    case DType::i32:
      return "i32";
    case DType::i64:
      return "i64";
  }
  return "?";
}

constexpr bool is_floating(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f64;
}

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, bf16>) return DType::bf16;
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  if constexpr (std::is_same_v<T, std::uint8_t>) return DType::u8;
  if constexpr (std::is_same_v<T, std::int32_t>) return DType::i32;
  if constexpr (std::is_same_v<T, std::int64_t>) return DType::i64;
}

// The type in which values of T are computed and accumulated: float for float and bf16, double for double.
template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

// The dtype of statistics, losses, weights of losses and parameter gradients that go with activations of
// `dtype`.
constexpr DType accumulator_of(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

// Calls f(std::type_identity<T>{}) with the C++ type of a floating dtype:
//   dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { relu<T>(...); });
template <class F>
decltype(auto) dispatch_float(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(std::type_identity<float>{});
    case DType::bf16:
      return f(std::type_identity<bf16>{});
    case DType::f64:
      return f(std::type_identity<double>{});
    default:
      internal_error("dispatch_float: not a floating dtype");
  }
}

}  // namespace cohort
