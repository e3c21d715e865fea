// The AVX-512 inner loops of winograd.cpp. Compiled for that target function by function, so that the rest of
// the library runs on any x86-64-v3 CPU; winograd::supports() guards the way in.
#pragma once

#if defined(__x86_64__)

// GCC 12 warns about its own _mm512_undefined_ps (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <cstdint>

#include "kernels/base/dtype.h"

#define COHORT_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")))
#define COHORT_AVX512_INLINE \
  inline __attribute__((always_inline, target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")))

namespace cohort::kernels::winograd {

inline constexpr int kLanes = 16;
inline constexpr int kPoints = 16;  // of the transformed 4x4 tile

using WordAlias = std::int32_t __attribute__((may_alias, aligned(2)));

COHORT_AVX512_INLINE __m512 load(const float* p) {
  return _mm512_loadu_ps(p);
}
COHORT_AVX512_INLINE __m512 load(const bf16* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
COHORT_AVX512_INLINE void store(float* p, __m512 v) {
  _mm512_storeu_ps(p, v);
}
// To nearest even; values below the normal range become zero.
COHORT_AVX512_INLINE void store(bf16* p, __m512 v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), __m256i(_mm512_cvtneps_pbh(v)));
}

// 16 pairs (first, second) as the 32-bit words that one product instruction takes.
COHORT_AVX512_INLINE void store_pairs(bf16* p, __m512 first, __m512 second) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i both = __m512i(_mm512_cvtne2ps_pbh(second, first));
  _mm512_storeu_si512(p, _mm512_permutexvar_epi16(order, both));
}

// sum + left * right: per lane one product of floats, or two of a pair of bf16.
COHORT_AVX512_INLINE __m512 multiply_add(const float*, __m512 left, __m512 right, __m512 sum) {
  return _mm512_fmadd_ps(left, right, sum);
}
COHORT_AVX512_INLINE __m512 multiply_add(const bf16*, __m512 left, __m512 right, __m512 sum) {
  return _mm512_dpbf16_ps(sum, __m512bh(left), __m512bh(right));
}

// Values of T in one 32-bit word.
template <class T>
inline constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));

template <class T>
COHORT_AVX512_INLINE __m512 load_words(const T* p) {
  return _mm512_loadu_ps(p);
}
template <class T>
COHORT_AVX512_INLINE __m512 broadcast_word(const T* p) {
  return _mm512_castsi512_ps(_mm512_set1_epi32(*reinterpret_cast<const WordAlias*>(p)));
}

// prefetchw: every CPU with AVX-512 has it, but not every x86-64-v3 one.
__attribute__((target("prfchw"))) inline void prefetch_for_write(const void* p) {
  __builtin_prefetch(p, 1, 2);
}

// A plane of pixels, channels innermost, that reads as zero outside.
template <class T>
struct Pixels {
  const T* data;
  std::int64_t h, w, c;
};

// Where the 16 points of a row of tiles are: point i of tile t and channel c at data[i * plane + t * channels
// + c]. In pairs of tiles: at data[i * plane + (t / 2 * channels + c) * 2 + t % 2].
template <class T>
struct Points {
  T* data;
  std::int64_t plane;
};

// B^T d of one column of four pixels. kRows: all four rows lie inside.
template <bool kRows, class T>
COHORT_AVX512_INLINE void column_of_input(const Pixels<T>& x, std::int64_t row, std::int64_t column,
                                          std::int64_t c, __m512 out[4]) {
  __m512 d[4];
  const bool inside = column >= 0 && column < x.w;
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    const bool valid = inside && (kRows || (row + r >= 0 && row + r < x.h));
    d[r] = valid ? load(x.data + ((row + r) * x.w + column) * x.c + c) : _mm512_setzero_ps();
  }
  out[0] = _mm512_sub_ps(d[0], d[2]);
  out[1] = _mm512_add_ps(d[1], d[2]);
  out[2] = _mm512_sub_ps(d[2], d[1]);
  out[3] = _mm512_sub_ps(d[1], d[3]);
}

template <bool kRows, class T>
COHORT_AVX512 void transform_input_of(const Pixels<T>& x, std::int64_t row, std::int64_t column,
                                      std::int64_t count, const Points<T>& v) {
  for (std::int64_t c = 0; c < x.c; c += kLanes) {
    __m512 p0[4], p1[4], p2[4], p3[4];
    column_of_input<kRows>(x, row, column, c, p0);
    column_of_input<kRows>(x, row, column + 1, c, p1);
    for (std::int64_t i = 0; i < count; ++i) {
      column_of_input<kRows>(x, row, column + 2 * i + 2, c, p2);
      column_of_input<kRows>(x, row, column + 2 * i + 3, c, p3);
      T* out = v.data + i * x.c + c;
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r, out += 4 * v.plane) {
        store(out, _mm512_sub_ps(p0[r], p2[r]));
        store(out + v.plane, _mm512_add_ps(p1[r], p2[r]));
        store(out + 2 * v.plane, _mm512_sub_ps(p2[r], p1[r]));
        store(out + 3 * v.plane, _mm512_sub_ps(p1[r], p3[r]));
        p0[r] = p2[r];
        p1[r] = p3[r];
      }
    }
  }
}

// The same of `count` tiles, an even number, in pairs of tiles.
template <bool kRows>
COHORT_AVX512 void transform_input_pairs_of(const Pixels<bf16>& x, std::int64_t row, std::int64_t column,
                                            std::int64_t count, const Points<bf16>& v) {
  for (std::int64_t c = 0; c < x.c; c += kLanes) {
    __m512 p0[4], p1[4], p2[4], p3[4], p4[4], p5[4];
    column_of_input<kRows>(x, row, column, c, p0);
    column_of_input<kRows>(x, row, column + 1, c, p1);
    for (std::int64_t i = 0; i < count; i += 2) {
      column_of_input<kRows>(x, row, column + 2 * i + 2, c, p2);
      column_of_input<kRows>(x, row, column + 2 * i + 3, c, p3);
      column_of_input<kRows>(x, row, column + 2 * i + 4, c, p4);
      column_of_input<kRows>(x, row, column + 2 * i + 5, c, p5);
      bf16* out = v.data + i * x.c + 2 * c;
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r, out += 4 * v.plane) {
        store_pairs(out, _mm512_sub_ps(p0[r], p2[r]), _mm512_sub_ps(p2[r], p4[r]));
        store_pairs(out + v.plane, _mm512_add_ps(p1[r], p2[r]), _mm512_add_ps(p3[r], p4[r]));
        store_pairs(out + 2 * v.plane, _mm512_sub_ps(p2[r], p1[r]), _mm512_sub_ps(p4[r], p3[r]));
        store_pairs(out + 3 * v.plane, _mm512_sub_ps(p1[r], p3[r]), _mm512_sub_ps(p3[r], p5[r]));
        p0[r] = p4[r];
        p1[r] = p5[r];
      }
    }
  }
}

// B^T d B of `count` tiles next to each other, the first with its corner at (row, column). Neighbours share
// two columns, which are transformed once.
template <class T>
void transform_input(const Pixels<T>& x, std::int64_t row, std::int64_t column, std::int64_t count,
                     const Points<T>& v) {
  const bool inside = row >= 0 && row + 3 < x.h;
  (inside ? transform_input_of<true, T> : transform_input_of<false, T>)(x, row, column, count, v);
}

inline void transform_input_pairs(const Pixels<bf16>& x, std::int64_t row, std::int64_t column,
                                  std::int64_t count, const Points<bf16>& v) {
  const bool inside = row >= 0 && row + 3 < x.h;
  (inside ? transform_input_pairs_of<true> : transform_input_pairs_of<false>)(x, row, column, count, v);
}

// A dY of one tile of 2x2 gradients, which may reach over the edge: columns `left` and `right`.
template <class T>
COHORT_AVX512_INLINE void columns_of_grad(const Pixels<T>& y, std::int64_t row, std::int64_t column,
                                          std::int64_t k, __m512 left[4], __m512 right[4]) {
  const T* const p = y.data + (row * y.w + column) * y.c + k;
  const bool second_row = row + 1 < y.h;
  const bool first_column = column < y.w;
  const bool second_column = column + 1 < y.w;
  const __m512 zero = _mm512_setzero_ps();
  const __m512 y00 = first_column ? load(p) : zero;
  const __m512 y01 = second_column ? load(p + y.c) : zero;
  const __m512 y10 = second_row && first_column ? load(p + y.w * y.c) : zero;
  const __m512 y11 = second_row && second_column ? load(p + (y.w + 1) * y.c) : zero;
  left[0] = y00;
  left[1] = _mm512_add_ps(y00, y10);
  left[2] = _mm512_sub_ps(y00, y10);
  left[3] = y10;
  right[0] = y01;
  right[1] = _mm512_add_ps(y01, y11);
  right[2] = _mm512_sub_ps(y01, y11);
  right[3] = y11;
}

// A dY A^T of `count` tiles of 2x2 gradients. The last row and column are stored without their minus sign,
// which transform_grad_weight puts back.
template <class T>
COHORT_AVX512 void transform_grad_output(const Pixels<T>& y, std::int64_t row, std::int64_t column,
                                         std::int64_t count, const Points<T>& z) {
  for (std::int64_t k = 0; k < y.c; k += kLanes) {
    for (std::int64_t i = 0; i < count; ++i) {
      __m512 left[4], right[4];
      columns_of_grad(y, row, column + 2 * i, k, left, right);
      T* out = z.data + i * y.c + k;
      for (int r = 0; r < 4; ++r, out += 4 * z.plane) {
        store(out, left[r]);
        store(out + z.plane, _mm512_add_ps(left[r], right[r]));
        store(out + 2 * z.plane, _mm512_sub_ps(left[r], right[r]));
        store(out + 3 * z.plane, right[r]);
      }
    }
  }
}

COHORT_AVX512 inline void transform_grad_output_pairs(const Pixels<bf16>& y, std::int64_t row,
                                                      std::int64_t column, std::int64_t count,
                                                      const Points<bf16>& z) {
  for (std::int64_t k = 0; k < y.c; k += kLanes) {
    for (std::int64_t i = 0; i < count; i += 2) {
      __m512 a[4], b[4], c[4], d[4];
      columns_of_grad(y, row, column + 2 * i, k, a, b);
      columns_of_grad(y, row, column + 2 * i + 2, k, c, d);
      bf16* out = z.data + i * y.c + 2 * k;
      for (int r = 0; r < 4; ++r, out += 4 * z.plane) {
        store_pairs(out, a[r], c[r]);
        store_pairs(out + z.plane, _mm512_add_ps(a[r], b[r]), _mm512_add_ps(c[r], d[r]));
        store_pairs(out + 2 * z.plane, _mm512_sub_ps(a[r], b[r]), _mm512_sub_ps(c[r], d[r]));
        store_pairs(out + 3 * z.plane, b[r], d[r]);
      }
    }
  }
}

template <class T>
struct Target {
  T* data;  // one image
  std::int64_t h, w, k;
  const float* bias;  // may be null
  bool add;
};

// kPlain: no bias, nothing to add to, and the whole tile lies inside.
template <bool kPlain, class T>
COHORT_AVX512_INLINE void put(const Target<T>& y, std::int64_t row, std::int64_t column, std::int64_t k,
                              __m512 v) {
  T* const p = y.data + (row * y.w + column) * y.k + k;
  if (!kPlain) {
    if (row >= y.h || column >= y.w) return;
    if (y.bias != nullptr) v = _mm512_add_ps(v, load(y.bias + k));
    if (y.add) v = _mm512_add_ps(load(p), v);
  }
  store(p, v);
}

template <bool kPlain, class T>
COHORT_AVX512 void transform_output_of(const Points<float>& m, std::int64_t count, const Target<T>& y,
                                       std::int64_t row, std::int64_t column) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t q = column + 2 * i;
    for (std::int64_t k = 0; k < y.k; k += kLanes) {
      const float* in = m.data + i * y.k + k;
      __m512 top[4], bottom[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j, in += m.plane) {
        const __m512 m1 = load(in + 4 * m.plane);
        const __m512 m2 = load(in + 8 * m.plane);
        top[j] = _mm512_add_ps(load(in), _mm512_add_ps(m1, m2));
        bottom[j] = _mm512_sub_ps(_mm512_sub_ps(m1, m2), load(in + 12 * m.plane));
      }
      put<kPlain>(y, row, q, k, _mm512_add_ps(top[0], _mm512_add_ps(top[1], top[2])));
      put<kPlain>(y, row, q + 1, k, _mm512_sub_ps(_mm512_sub_ps(top[1], top[2]), top[3]));
      put<kPlain>(y, row + 1, q, k, _mm512_add_ps(bottom[0], _mm512_add_ps(bottom[1], bottom[2])));
      put<kPlain>(y, row + 1, q + 1, k, _mm512_sub_ps(_mm512_sub_ps(bottom[1], bottom[2]), bottom[3]));
    }
  }
}

// A^T M A of `count` tiles next to each other, written (or added) to 2x2 outputs from (row, column) on.
template <class T>
void transform_output(const Points<float>& m, std::int64_t count, const Target<T>& y, std::int64_t row,
                      std::int64_t column) {
  const bool inside = row + 1 < y.h && column + 2 * count <= y.w;
  if (inside && y.bias == nullptr && !y.add) {
    transform_output_of<true>(m, count, y, row, column);
  } else {
    transform_output_of<false>(m, count, y, row, column);
  }
}

// G g G^T of 16 filters, lane by lane: g holds 9 taps of 16 lanes, u gets 16 points.
COHORT_AVX512_INLINE void transform_filters(const float* g, __m512 u[kPoints]) {
  const __m512 half = _mm512_set1_ps(0.5F);
  __m512 rows[4][3];
  for (int s = 0; s < 3; ++s) {
    const __m512 g0 = load(g + s * kLanes);
    const __m512 g1 = load(g + (3 + s) * kLanes);
    const __m512 g2 = load(g + (6 + s) * kLanes);
    const __m512 outer = _mm512_add_ps(g0, g2);
    rows[0][s] = g0;
    rows[1][s] = _mm512_mul_ps(half, _mm512_add_ps(outer, g1));
    rows[2][s] = _mm512_mul_ps(half, _mm512_sub_ps(outer, g1));
    rows[3][s] = g2;
  }
  for (int r = 0; r < 4; ++r, u += 4) {
    const __m512 outer = _mm512_add_ps(rows[r][0], rows[r][2]);
    u[0] = rows[r][0];
    u[1] = _mm512_mul_ps(half, _mm512_add_ps(outer, rows[r][1]));
    u[2] = _mm512_mul_ps(half, _mm512_sub_ps(outer, rows[r][1]));
    u[3] = rows[r][2];
  }
}

// For one input channel in f32, for a pair of them in bf16: `taps` holds 9 * 16 floats of each.
COHORT_AVX512 inline void put_filters(const float* taps, float* u, std::int64_t plane) {
  __m512 points[kPoints];
  transform_filters(taps, points);
  for (int i = 0; i < kPoints; ++i) store(u + i * plane, points[i]);
}
COHORT_AVX512 inline void put_filters(const float* taps, bf16* u, std::int64_t plane) {
  __m512 first[kPoints], second[kPoints];
  transform_filters(taps, first);
  transform_filters(taps + 9 * kLanes, second);
  for (int i = 0; i < kPoints; ++i) store_pairs(u + i * plane, first[i], second[i]);
}

// G^T dU G of one filter and 16 input channels, from the sum of `count` partial dU in order; dg gets the 9
// taps.
COHORT_AVX512 inline void transform_grad_weight(const float* du, std::int64_t plane, std::int64_t count,
                                                std::int64_t distance, float* dg, std::int64_t tap,
                                                bool add) {
  const __m512 half = _mm512_set1_ps(0.5F);
  __m512 q[3][4];
  for (int j = 0; j < 4; ++j) {
    __m512 s[4];
    for (int i = 0; i < 4; ++i) {
      const float* const p = du + (4 * i + j) * plane;
      s[i] = load(p);
      for (std::int64_t part = 1; part < count; ++part) s[i] = _mm512_add_ps(s[i], load(p + part * distance));
    }
    const __m512 inner = _mm512_mul_ps(half, _mm512_add_ps(s[1], s[2]));
    q[0][j] = _mm512_add_ps(s[0], inner);
    q[1][j] = _mm512_mul_ps(half, _mm512_sub_ps(s[1], s[2]));
    q[2][j] = _mm512_sub_ps(inner, s[3]);
  }
  for (int r = 0; r < 3; ++r) {
    const __m512 inner = _mm512_mul_ps(half, _mm512_add_ps(q[r][1], q[r][2]));
    const __m512 taps[3] = {_mm512_add_ps(q[r][0], inner),
                            _mm512_mul_ps(half, _mm512_sub_ps(q[r][1], q[r][2])),
                            _mm512_sub_ps(inner, q[r][3])};
    for (int s = 0; s < 3; ++s) {
      float* const out = dg + (3 * r + s) * tap;
      store(out, add ? _mm512_add_ps(load(out), taps[s]) : taps[s]);
    }
  }
}

// out (kRows, kVectors * 16) = a (kRows, depth) b (depth, kVectors * 16), where b holds kPerWord values of
// the depth together; kDepth is depth when known at compile time.
template <class T, int kRows, int kVectors, int kDepth>
COHORT_AVX512 void product(const T* a, const T* b, std::int64_t depth, float* out, std::int64_t out_stride) {
  const std::int64_t n = kDepth != 0 ? kDepth : depth;
  __m512 sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_setzero_ps();
  }
  for (std::int64_t p = 0; p < n; p += kPerWord<T>, b += kVectors * kLanes * kPerWord<T>) {
    __m512 right[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) right[v] = load_words(b + v * kLanes * kPerWord<T>);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const __m512 left = broadcast_word(a + r * n + p);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] = multiply_add(a, left, right[v], sums[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(out + r * out_stride + v * kLanes, sums[r][v]);
  }
}

// sum (kRows, kVectors * 16) (+)= z^T v over `count` words of tiles: z (count, z_words), v (count, v_words).
template <class T, int kRows, int kVectors>
COHORT_AVX512 void outer_product(const T* z, std::int64_t z_words, const T* v, std::int64_t v_words,
                                 std::int64_t count, float* sum, std::int64_t sum_stride, bool add) {
  __m512 sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      sums[r][j] = add ? load(sum + r * sum_stride + j * kLanes) : _mm512_setzero_ps();
    }
  }
  for (std::int64_t t = 0; t < count; ++t, z += z_words * kPerWord<T>, v += v_words * kPerWord<T>) {
    __m512 right[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) right[j] = load_words(v + j * kLanes * kPerWord<T>);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const __m512 left = broadcast_word(z + r * kPerWord<T>);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sums[r][j] = multiply_add(z, left, right[j], sums[r][j]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) store(sum + r * sum_stride + j * kLanes, sums[r][j]);
  }
}

}  // namespace cohort::kernels::winograd

#endif  // __x86_64__
