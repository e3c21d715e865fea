// Atomics under CUDA's names: relaxed, as on the device. Order between threads comes from fences alone.
#pragma once

#include <type_traits>

#include "simt/emulator/engine.h"

namespace simt::detail {

template <class T, class... Allowed>
concept AnyOf = (std::is_same_v<T, Allowed> || ...);

template <class T>
using Bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;

#if defined(__SANITIZE_THREAD__)
inline void heard(const void* address) {
  note_atomic(address);
}
#else
inline void heard(const void*) {}
#endif

// *address = f(*address) in one step; returns the old value.
template <class T, class F>
T update(T* address, F&& f) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  auto* const word = reinterpret_cast<Bits<T>*>(address);
  Bits<T> old = __atomic_load_n(word, __ATOMIC_RELAXED);
  Bits<T> wanted = 0;
  do {
    wanted = __builtin_bit_cast(Bits<T>, static_cast<T>(f(__builtin_bit_cast(T, old))));
  } while (!__atomic_compare_exchange_n(word, &old, wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  heard(address);
  return __builtin_bit_cast(T, old);
}

inline unsigned load(const unsigned* address) {
  const unsigned value = __atomic_load_n(address, __ATOMIC_RELAXED);
  heard(address);
  return value;
}

template <class T>
concept Added = AnyOf<T, int, unsigned, unsigned long long, float, double>;
template <class T>
concept Compared = AnyOf<T, int, unsigned, long long, unsigned long long>;
template <class T>
concept BitField = AnyOf<T, int, unsigned, unsigned long long>;

// Signed overflow wraps, as on the device.
template <class T>
T add_wrapped(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
  } else {
    return a + b;
  }
}

}  // namespace simt::detail

// The second argument is not deduced, so that atomicAdd(&counter, 1) converts as CUDA's overloads do.
template <simt::detail::Added T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return simt::detail::update(address, [=](T old) { return simt::detail::add_wrapped<T>(old, value); });
}
template <class T>
requires simt::detail::AnyOf<T, int, unsigned> T atomicSub(T* address, std::type_identity_t<T> value) {
  return simt::detail::update(address, [=](T old) {
    return static_cast<T>(static_cast<unsigned>(old) - static_cast<unsigned>(value));
  });
}
template <class T>
requires simt::detail::AnyOf<T, int, unsigned, unsigned long long, float> T
atomicExch(T* address, std::type_identity_t<T> value) {
  return simt::detail::update(address, [=](T) { return value; });
}
template <simt::detail::Compared T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return simt::detail::update(address, [=](T old) { return value < old ? value : old; });
}
template <simt::detail::Compared T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return simt::detail::update(address, [=](T old) { return value > old ? value : old; });
}
template <simt::detail::BitField T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return simt::detail::update(address, [=](T old) { return old & value; });
}
template <simt::detail::BitField T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return simt::detail::update(address, [=](T old) { return old | value; });
}
template <simt::detail::BitField T>
T atomicXor(T* address, std::type_identity_t<T> value) {
  return simt::detail::update(address, [=](T old) { return old ^ value; });
}
template <simt::detail::BitField T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return simt::detail::update(address, [=](T old) { return old == expected ? value : old; });
}
// ((old >= limit) ? 0 : old + 1)
inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return simt::detail::update(address, [=](unsigned old) { return old >= limit ? 0U : old + 1U; });
}
// ((old == 0 || old > limit) ? limit : old - 1)
inline unsigned atomicDec(unsigned* address, unsigned limit) {
  return simt::detail::update(address,
                              [=](unsigned old) { return old == 0U || old > limit ? limit : old - 1U; });
}
