// Convolution in plain loops, for the cases that have no faster code: f64 (gradient checks) and whatever
// oneDNN lacks on this CPU. Every element of a result is one sum in one fixed order, so any split over
// threads gives the same bits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/conv2d.h"

namespace cohort::kernels::cpu {

template <class T>
void plain_conv2d_forward_image(const Conv2dShape& s, const T* x, const T* weight, const Accumulator<T>* bias,
                                T* y) {
  using Sum = Accumulator<T>;
  const std::int64_t c = s.c / s.groups;
  const std::int64_t k_per_group = s.k / s.groups;
  for (std::int64_t p = 0; p < s.out_h(); ++p) {
    for (std::int64_t q = 0; q < s.out_w(); ++q) {
      for (std::int64_t k = 0; k < s.k; ++k) {
        Sum sum = 0;
        for (int r = 0; r < s.kh; ++r) {
          const std::int64_t row = p * s.stride - s.padding + std::int64_t{r} * s.dilation;
          if (row < 0 || row >= s.h) continue;
          for (int t = 0; t < s.kw; ++t) {
            const std::int64_t column = q * s.stride - s.padding + std::int64_t{t} * s.dilation;
            if (column < 0 || column >= s.w) continue;
            const T* const pixel = x + (row * s.w + column) * s.c + k / k_per_group * c;
            const T* const tap = weight + ((k * s.kh + r) * s.kw + t) * c;
            for (std::int64_t i = 0; i < c; ++i) sum += static_cast<Sum>(pixel[i]) * static_cast<Sum>(tap[i]);
          }
        }
        *y++ = static_cast<T>(bias == nullptr ? sum : sum + bias[k]);
      }
    }
  }
}

// The output position that input position `at` meets through tap `tap`, or -1.
inline std::int64_t output_position(const Conv2dShape& s, std::int64_t at, int tap, std::int64_t extent) {
  const std::int64_t shifted = at + s.padding - std::int64_t{tap} * s.dilation;
  if (shifted < 0 || shifted % s.stride != 0 || shifted / s.stride >= extent) return -1;
  return shifted / s.stride;
}

// `sums`: C/groups values of scratch.
template <class T>
void plain_conv2d_backward_data_image(const Conv2dShape& s, const T* grad_y, const T* weight, T* grad_x,
                                      GradMode mode, Accumulator<T>* sums) {
  using Sum = Accumulator<T>;
  const std::int64_t c = s.c / s.groups;
  const std::int64_t k_per_group = s.k / s.groups;
  for (std::int64_t pixel = 0; pixel < s.h * s.w; ++pixel) {
    for (int group = 0; group < s.groups; ++group, grad_x += c) {
      std::fill_n(sums, c, Sum{0});
      for (int r = 0; r < s.kh; ++r) {
        const std::int64_t p = output_position(s, pixel / s.w, r, s.out_h());
        for (int t = 0; t < s.kw && p >= 0; ++t) {
          const std::int64_t q = output_position(s, pixel % s.w, t, s.out_w());
          if (q < 0) continue;
          const T* const gradient = grad_y + (p * s.out_w() + q) * s.k;
          for (std::int64_t k = group * k_per_group; k < (group + 1) * k_per_group; ++k) {
            const Sum g = static_cast<Sum>(gradient[k]);
            const T* const tap = weight + ((k * s.kh + r) * s.kw + t) * c;
            for (std::int64_t i = 0; i < c; ++i) sums[i] += g * static_cast<Sum>(tap[i]);
          }
        }
      }
      for (std::int64_t i = 0; i < c; ++i) {
        grad_x[i] =
            static_cast<T>(mode == GradMode::kAccumulate ? static_cast<Sum>(grad_x[i]) + sums[i] : sums[i]);
      }
    }
  }
}

// The gradient of filter k, summed over the whole batch in double. `sums`: kh * kw * C/groups values of
// scratch.
template <class T>
void plain_conv2d_backward_weights_filter(const Conv2dShape& s, std::int64_t k, const T* x, const T* grad_y,
                                          Accumulator<T>* grad_weight, GradMode mode, double* sums) {
  using Sum = Accumulator<T>;
  const std::int64_t c = s.c / s.groups;
  const std::int64_t count = s.kh * s.kw * c;
  const std::int64_t first_channel = k / (s.k / s.groups) * c;
  std::fill_n(sums, count, 0.0);
  for (std::int64_t n = 0; n < s.n; ++n) {
    for (std::int64_t p = 0; p < s.out_h(); ++p) {
      for (std::int64_t q = 0; q < s.out_w(); ++q) {
        const double g = static_cast<double>(grad_y[((n * s.out_h() + p) * s.out_w() + q) * s.k + k]);
        for (int r = 0; r < s.kh; ++r) {
          const std::int64_t row = p * s.stride - s.padding + std::int64_t{r} * s.dilation;
          if (row < 0 || row >= s.h) continue;
          for (int t = 0; t < s.kw; ++t) {
            const std::int64_t column = q * s.stride - s.padding + std::int64_t{t} * s.dilation;
            if (column < 0 || column >= s.w) continue;
            const T* const pixel = x + ((n * s.h + row) * s.w + column) * s.c + first_channel;
            double* const tap = sums + (std::int64_t{r} * s.kw + t) * c;
            for (std::int64_t i = 0; i < c; ++i) tap[i] += g * static_cast<double>(pixel[i]);
          }
        }
      }
    }
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const double before = mode == GradMode::kAccumulate ? static_cast<double>(grad_weight[i]) : 0.0;
    grad_weight[i] = static_cast<Sum>(before + sums[i]);
  }
}

}  // namespace cohort::kernels::cpu
