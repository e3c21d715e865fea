// 16-byte loads and stores of f32 (4 values), bf16 (8) and f64 (2), computed in Accumulator<T>.
//
//   if (aligned16(x) && aligned16(y) && n % Vec<T>::kWidth == 0) { auto v = Vec<T>::load(x + i); ...;
//   v.store(y + i); } the last n < kWidth values, or any alignment: Vec<T>::load_part(x + i, n),
//   v.store_part(y + i, n)
#pragma once

#include "kernels/base/dtype.h"
#include "kernels/cuda/simt.cuh"

namespace cohort::kernels {

template <class T>
__device__ inline Accumulator<T> to_float(T x) {
  return static_cast<Accumulator<T>>(x);
}

template <class T>
__device__ inline T from_float(Accumulator<T> x) {
  return static_cast<T>(x);
}

__host__ __device__ inline bool aligned16(const void* p) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}

namespace detail {

__device__ inline uint4 pack(const float (&v)[4]) {
  return make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                    __float_as_uint(v[3]));
}

__device__ inline void unpack(uint4 raw, float (&v)[4]) {
  v[0] = __uint_as_float(raw.x);
  v[1] = __uint_as_float(raw.y);
  v[2] = __uint_as_float(raw.z);
  v[3] = __uint_as_float(raw.w);
}

// Two bf16 in one word, the first one in the low half.
__device__ inline unsigned pack_bf16(float low, float high) {
  return static_cast<unsigned>(bf16(low).bits) | (static_cast<unsigned>(bf16(high).bits) << 16);
}

__device__ inline uint4 pack(const float (&v)[8]) {
  return make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                    pack_bf16(v[6], v[7]));
}

__device__ inline void unpack(uint4 raw, float (&v)[8]) {
  const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = __uint_as_float(words[i] << 16);
    v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000U);
  }
}

__device__ inline uint4 pack(const double (&v)[2]) {
  const auto a = static_cast<unsigned long long>(__double_as_longlong(v[0]));
  const auto b = static_cast<unsigned long long>(__double_as_longlong(v[1]));
  return make_uint4(static_cast<unsigned>(a), static_cast<unsigned>(a >> 32), static_cast<unsigned>(b),
                    static_cast<unsigned>(b >> 32));
}

__device__ inline void unpack(uint4 raw, double (&v)[2]) {
  const auto join = [](unsigned low, unsigned high) {
    return static_cast<long long>((static_cast<unsigned long long>(high) << 32) | low);
  };
  v[0] = __longlong_as_double(join(raw.x, raw.y));
  v[1] = __longlong_as_double(join(raw.z, raw.w));
}

}  // namespace detail

template <class T>
struct Vec {
  using Value = Accumulator<T>;
  static constexpr int kWidth = 16 / static_cast<int>(sizeof(T));

  Value v[kWidth];

  __device__ Value& operator[](int i) { return v[i]; }
  __device__ Value operator[](int i) const { return v[i]; }

  // p: 16-byte aligned.
  __device__ static Vec load(const T* p) {
    Vec r;
    detail::unpack(*reinterpret_cast<const uint4*>(p), r.v);
    return r;
  }
  // For what is read once: evicted first.
  __device__ static Vec load_streaming(const T* p) {
    Vec r;
    detail::unpack(__ldcs(reinterpret_cast<const uint4*>(p)), r.v);
    return r;
  }
  __device__ void store(T* p) const { *reinterpret_cast<uint4*>(p) = detail::pack(v); }
  __device__ void store_streaming(T* p) const { __stcs(reinterpret_cast<uint4*>(p), detail::pack(v)); }

  // The first n values (0 <= n <= kWidth), any alignment; the others are `fill`.
  __device__ static Vec load_part(const T* p, int n, Value fill = Value{0}) {
    Vec r;
    for (int i = 0; i < kWidth; ++i) r.v[i] = i < n ? to_float(p[i]) : fill;
    return r;
  }
  __device__ void store_part(T* p, int n) const {
    for (int i = 0; i < kWidth; ++i) {
      if (i < n) p[i] = from_float<T>(v[i]);
    }
  }
};

}  // namespace cohort::kernels
