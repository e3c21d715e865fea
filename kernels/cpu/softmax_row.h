// The softmax of one row on the CPU, in vectors.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"

namespace cohort::kernels {

// Room for a row in scratch memory: whole vectors, so that no loop over classes has a remainder.
constexpr std::int64_t padded_classes(std::int64_t classes) {
  constexpr std::int64_t kPadding = 16;
  return ceil_div(classes, kPadding) * kPadding;
}

// p = softmax(z inv_t) and log_p + (returned number) its logarithm; with `finish` the returned number is 0
// and log_p is the logarithm itself. Padding gets p = 0.
template <class T, class A>
A softmax(const T* z, std::int64_t classes, std::int64_t padded, A inv_t, bool finish, A* p, A* log_p) {
  constexpr A kLowest = std::numeric_limits<A>::lowest();
  A max = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : max)
  for (std::int64_t c = 0; c < classes; ++c) {
    const A v = static_cast<A>(z[c]);
    max = v > max ? v : max;
  }
#pragma omp simd
  for (std::int64_t c = 0; c < classes; ++c) {
    const A x = (static_cast<A>(z[c]) - max) * inv_t;
    log_p[c] = x < kLowest ? kLowest : x;
  }
  for (std::int64_t c = classes; c < padded; ++c) log_p[c] = kLowest;
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < padded; ++c) {
    const A e = exp_vectorised(log_p[c]);
    p[c] = e;
    sum += e;
  }
  const A inv_sum = 1 / sum;
  const A log_sum = std::log(sum);
#pragma omp simd
  for (std::int64_t c = 0; c < padded; ++c) p[c] *= inv_sum;
  if (!finish) return -log_sum;
#pragma omp simd
  for (std::int64_t c = 0; c < padded; ++c) log_p[c] -= log_sum;
  return 0;
}

}  // namespace cohort::kernels
