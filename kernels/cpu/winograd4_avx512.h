// The AVX-512 transforms of F(4x4, 3x3) in f32, for winograd.cpp: 36 multiplications per tile of 4x4 outputs
// where F(2x2, 3x3) takes 64.
//
// Interpolation points 0, +-a, +-b, infinity with a = sqrt(1/2), b = sqrt(2): as a b = 1, the matrices hold
// nothing above 2 b where the usual points 0, +-1, +-2 have a 5 and an 8.
//
//         1    0   -5/2   0    1   0            1     0    0             1   1    1    1    1    0
//         0  -2a    -2    a    1   0          -2/3 -2a/3 -1/3            0   a   -a    b   -b    0
//   B^T = 0   2a    -2   -a    1   0      G = -2/3  2a/3 -1/3      A^T = 0  1/2  1/2   2    2    0
//         0  -b/2  -1/2   b    1   0           1/6   b/6  1/3            0  a/2 -a/2  2b  -2b    1
//         0   b/2  -1/2  -b    1   0           1/6  -b/6  1/3
//         0    1    0   -5/2   0   1            0     0    1
//
// A tile that reaches over an edge takes a detour through a small buffer, so that the arithmetic knows no
// edges.
#pragma once

#include "kernels/cpu/winograd_avx512.h"

#if defined(__x86_64__)

namespace cohort::kernels::winograd::f4 {

inline constexpr float kA = 0.70710678F;
inline constexpr float kB = 1.41421356F;

COHORT_AVX512_INLINE __m512 set(float x) {
  return _mm512_set1_ps(x);
}

// x + factor * y.
COHORT_AVX512_INLINE __m512 plus(__m512 x, float factor, __m512 y) {
  return _mm512_fmadd_ps(set(factor), y, x);
}

// One tile of pixels of 16 channels: pixel (r, j) at data + r * row + j * column.
struct Tile {
  const float* data;
  std::int64_t row, column;
};
COHORT_AVX512_INLINE __m512 at(const Tile& t, int r, int j) {
  return load(t.data + r * t.row + j * t.column);
}

// B^T of one line, into every `step`-th vector of `out`.
COHORT_AVX512_INLINE void put_input_line(const __m512 d[6], float* out, std::int64_t step) {
  store(out, plus(_mm512_add_ps(d[0], d[4]), -2.5F, d[2]));
  __m512 even = plus(d[4], -2, d[2]);
  __m512 odd = plus(d[3], -2, d[1]);
  store(out + step, plus(even, kA, odd));
  store(out + 2 * step, plus(even, -kA, odd));
  even = plus(d[4], -0.5F, d[2]);
  odd = plus(d[3], -0.5F, d[1]);
  store(out + 3 * step, plus(even, kB, odd));
  store(out + 4 * step, plus(even, -kB, odd));
  store(out + 5 * step, plus(_mm512_add_ps(d[1], d[5]), -2.5F, d[3]));
}

// The two rows of B^T that belong to +-`point`; `other` is the square of the other point.
COHORT_AVX512_INLINE void put_input_pair(const Tile& t, float point, float other, float* out,
                                         std::int64_t plane) {
  __m512 first[6], second[6];
#pragma GCC unroll 6
  for (int j = 0; j < 6; ++j) {
    const __m512 even = plus(at(t, 4, j), -other, at(t, 2, j));
    const __m512 odd = plus(at(t, 3, j), -other, at(t, 1, j));
    first[j] = plus(even, point, odd);
    second[j] = plus(even, -point, odd);
  }
  put_input_line(first, out, plane);
  put_input_line(second, out + 6 * plane, plane);
}

// Row 0 of B^T, or row 5 from the pixels one row below.
COHORT_AVX512_INLINE void put_input_end(const Tile& t, int from, float* out, std::int64_t plane) {
  __m512 line[6];
#pragma GCC unroll 6
  for (int j = 0; j < 6; ++j)
    line[j] = plus(_mm512_add_ps(at(t, from, j), at(t, from + 4, j)), -2.5F, at(t, from + 2, j));
  put_input_line(line, out, plane);
}

// kSize x kSize pixels from (row, column) on, zero where they lie outside.
template <int kSize>
COHORT_AVX512_INLINE Tile padded(const Pixels<float>& x, std::int64_t row, std::int64_t column,
                                 std::int64_t c, float* buffer) {
  float* out = buffer;
  for (int r = 0; r < kSize; ++r) {
    const bool row_inside = row + r >= 0 && row + r < x.h;
    const float* in = x.data + ((row + r) * x.w + column) * x.c + c;
    for (int j = 0; j < kSize; ++j, in += x.c, out += kLanes) {
      store(out, row_inside && column + j >= 0 && column + j < x.w ? load(in) : _mm512_setzero_ps());
    }
  }
  return {buffer, kSize * kLanes, kLanes};
}

// Where kSize x kSize pixels from (row, column) on can be read.
template <int kSize>
COHORT_AVX512_INLINE Tile tile_at(const Pixels<float>& x, std::int64_t row, std::int64_t column,
                                  std::int64_t c, float* buffer) {
  const bool inside = row >= 0 && row + kSize <= x.h && column >= 0 && column + kSize <= x.w;
  if (!inside) return padded<kSize>(x, row, column, c, buffer);
  return {x.data + (row * x.w + column) * x.c + c, x.w * x.c, x.c};
}

// B^T d B of `count` tiles next to each other, the first with its corner at (row, column).
COHORT_AVX512 inline void transform_input(const Pixels<float>& x, std::int64_t row, std::int64_t column,
                                          std::int64_t count, const Points<float>& v) {
  alignas(64) float buffer[36 * kLanes];
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t c = 0; c < x.c; c += kLanes) {
      const Tile t = tile_at<6>(x, row, column + 4 * i, c, buffer);
      float* const out = v.data + i * x.c + c;
      put_input_end(t, 0, out, v.plane);
      put_input_pair(t, kA, 2, out + 6 * v.plane, v.plane);
      put_input_pair(t, kB, 0.5F, out + 18 * v.plane, v.plane);
      put_input_end(t, 1, out + 30 * v.plane, v.plane);
    }
  }
}

// A of one line of four gradients.
COHORT_AVX512_INLINE void put_grad_line(const __m512 y[4], float* out, std::int64_t step) {
  store(out, y[0]);
  __m512 even = plus(y[0], 0.5F, y[2]);
  __m512 odd = plus(y[1], 0.5F, y[3]);
  store(out + step, plus(even, kA, odd));
  store(out + 2 * step, plus(even, -kA, odd));
  even = plus(y[0], 2, y[2]);
  odd = plus(y[1], 2, y[3]);
  store(out + 3 * step, plus(even, kB, odd));
  store(out + 4 * step, plus(even, -kB, odd));
  store(out + 5 * step, y[3]);
}

COHORT_AVX512_INLINE void put_grad_pair(const Tile& t, float point, float square, float* out,
                                        std::int64_t plane) {
  __m512 first[4], second[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 even = plus(at(t, 0, j), square, at(t, 2, j));
    const __m512 odd = plus(at(t, 1, j), square, at(t, 3, j));
    first[j] = plus(even, point, odd);
    second[j] = plus(even, -point, odd);
  }
  put_grad_line(first, out, plane);
  put_grad_line(second, out + 6 * plane, plane);
}

COHORT_AVX512_INLINE void put_grad_end(const Tile& t, int row, float* out, std::int64_t plane) {
  const __m512 line[4] = {at(t, row, 0), at(t, row, 1), at(t, row, 2), at(t, row, 3)};
  put_grad_line(line, out, plane);
}

// A dY A^T of `count` tiles of 4x4 gradients.
COHORT_AVX512 inline void transform_grad_output(const Pixels<float>& y, std::int64_t row, std::int64_t column,
                                                std::int64_t count, const Points<float>& z) {
  alignas(64) float buffer[16 * kLanes];
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t k = 0; k < y.c; k += kLanes) {
      const Tile t = tile_at<4>(y, row, column + 4 * i, k, buffer);
      float* const out = z.data + i * y.c + k;
      put_grad_end(t, 0, out, z.plane);
      put_grad_pair(t, kA, 0.5F, out + 6 * z.plane, z.plane);
      put_grad_pair(t, kB, 2, out + 18 * z.plane, z.plane);
      put_grad_end(t, 3, out + 30 * z.plane, z.plane);
    }
  }
}

// A^T of one line of six values.
COHORT_AVX512_INLINE void output_line(const __m512 m[6], __m512 y[4]) {
  const __m512 sum_a = _mm512_add_ps(m[1], m[2]);
  const __m512 sum_b = _mm512_add_ps(m[3], m[4]);
  const __m512 difference_a = _mm512_sub_ps(m[1], m[2]);
  const __m512 difference_b = _mm512_sub_ps(m[3], m[4]);
  y[0] = _mm512_add_ps(m[0], _mm512_add_ps(sum_a, sum_b));
  y[1] = _mm512_mul_ps(set(kA), plus(difference_a, 2, difference_b));
  y[2] = plus(_mm512_add_ps(sum_b, sum_b), 0.5F, sum_a);
  y[3] = plus(m[5], 0.5F * kA, plus(difference_a, 8, difference_b));
}

// out (+)= A^T M A of one tile; output (r, j) at out + r * row + j * column.
template <bool kAdd>
COHORT_AVX512_INLINE void put_output(const float* m, std::int64_t plane, float* out, std::int64_t row,
                                     std::int64_t column) {
  __m512 columns[4][6];
#pragma GCC unroll 6
  for (int j = 0; j < 6; ++j) {
    __m512 in[6], y[4];
#pragma GCC unroll 6
    for (int r = 0; r < 6; ++r) in[r] = load(m + (6 * r + j) * plane);
    output_line(in, y);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) columns[r][j] = y[r];
  }
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    __m512 y[4];
    output_line(columns[r], y);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      float* const p = out + r * row + j * column;
      store(p, kAdd ? _mm512_add_ps(load(p), y[j]) : y[j]);
    }
  }
}

// The part of a finished tile that lies inside, with bias, to its place.
COHORT_AVX512_INLINE void put_inside(const float* buffer, const Target<float>& y, std::int64_t row,
                                     std::int64_t column, std::int64_t k) {
  for (int r = 0; r < 4; ++r) {
    for (int j = 0; j < 4; ++j) put<false>(y, row + r, column + j, k, load(buffer + (4 * r + j) * kLanes));
  }
}

// A^T M A of `count` tiles next to each other, written (or added) to 4x4 outputs from (row, column) on.
COHORT_AVX512 inline void transform_output(const Points<float>& m, std::int64_t count, const Target<float>& y,
                                           std::int64_t row, std::int64_t column) {
  alignas(64) float buffer[16 * kLanes];
  const bool direct = row + 4 <= y.h && column + 4 * count <= y.w && y.bias == nullptr;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t q = column + 4 * i;
    for (std::int64_t k = 0; k < y.k; k += kLanes) {
      const float* const in = m.data + i * y.k + k;
      float* const out = y.data + (row * y.w + q) * y.k + k;
      if (!direct) {
        put_output<false>(in, m.plane, buffer, 4 * kLanes, kLanes);
        put_inside(buffer, y, row, q, k);
      } else if (y.add) {
        put_output<true>(in, m.plane, out, y.w * y.k, y.k);
      } else {
        put_output<false>(in, m.plane, out, y.w * y.k, y.k);
      }
    }
  }
}

// G of one line of three taps.
COHORT_AVX512_INLINE void filter_line(__m512 g0, __m512 g1, __m512 g2, __m512 u[6]) {
  u[0] = g0;
  __m512 even = _mm512_mul_ps(set(-2.0F / 3), plus(g0, 0.5F, g2));
  u[1] = plus(even, -2.0F / 3 * kA, g1);
  u[2] = plus(even, 2.0F / 3 * kA, g1);
  even = _mm512_mul_ps(set(1.0F / 6), plus(g0, 2, g2));
  u[3] = plus(even, kB / 6, g1);
  u[4] = plus(even, -kB / 6, g1);
  u[5] = g2;
}

// G g G^T of 16 filters for one input channel: `taps` holds 9 * 16 floats.
COHORT_AVX512 inline void put_filters(const float* taps, float* u, std::int64_t plane) {
  __m512 columns[3][6];
#pragma GCC unroll 3
  for (int s = 0; s < 3; ++s)
    filter_line(load(taps + s * kLanes), load(taps + (3 + s) * kLanes), load(taps + (6 + s) * kLanes),
                columns[s]);
  for (int r = 0; r < 6; ++r) {
    __m512 line[6];
    filter_line(columns[0][r], columns[1][r], columns[2][r], line);
    for (int j = 0; j < 6; ++j) store(u + (6 * r + j) * plane, line[j]);
  }
}

// G^T of one line of six values.
COHORT_AVX512_INLINE void taps_line(const __m512 s[6], __m512 q[3]) {
  const __m512 sum_a = _mm512_add_ps(s[1], s[2]);
  const __m512 sum_b = _mm512_add_ps(s[3], s[4]);
  q[0] = plus(plus(s[0], -2.0F / 3, sum_a), 1.0F / 6, sum_b);
  q[1] =
      plus(_mm512_mul_ps(set(-2.0F / 3 * kA), _mm512_sub_ps(s[1], s[2])), kB / 6, _mm512_sub_ps(s[3], s[4]));
  q[2] = plus(s[5], 1.0F / 3, _mm512_sub_ps(sum_b, sum_a));
}

// G^T dU G of one filter and 16 input channels, from the sum of `count` partial dU in order; dg gets the 9
// taps.
COHORT_AVX512 inline void transform_grad_weight(const float* du, std::int64_t plane, std::int64_t count,
                                                std::int64_t distance, float* dg, std::int64_t tap,
                                                bool add) {
  __m512 columns[3][6];
  for (int j = 0; j < 6; ++j) {
    __m512 s[6], q[3];
    for (int i = 0; i < 6; ++i) {
      const float* const p = du + (6 * i + j) * plane;
      s[i] = load(p);
      for (std::int64_t part = 1; part < count; ++part) s[i] = _mm512_add_ps(s[i], load(p + part * distance));
    }
    taps_line(s, q);
    for (int r = 0; r < 3; ++r) columns[r][j] = q[r];
  }
  for (int r = 0; r < 3; ++r) {
    __m512 taps[3];
    taps_line(columns[r], taps);
    for (int s = 0; s < 3; ++s) {
      float* const out = dg + (3 * r + s) * tap;
      store(out, add ? _mm512_add_ps(load(out), taps[s]) : taps[s]);
    }
  }
}

}  // namespace cohort::kernels::winograd::f4

#endif  // __x86_64__
