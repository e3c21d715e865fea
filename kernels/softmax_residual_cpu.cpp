#include "kernels/base/valid_rows.h"
#include "kernels/softmax_residual.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/base/loss_value.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kElementsPerChunk = 8192;

std::int64_t grain(std::int64_t classes) {
  return std::max<std::int64_t>(1, kElementsPerChunk / classes);
}

// Largest logit and 1 / sum of exp(z - largest).
template <class A>
struct Softmax {
  A largest, inv_sum;
  A operator()(A z) const { return exp_vectorised(z - largest) * inv_sum; }
};

template <class A>
Softmax<A> softmax_of(const A* z, std::int64_t classes) {
  A largest = -std::numeric_limits<A>::infinity();
  for (std::int64_t c = 0; c < classes; ++c) largest = z[c] > largest ? z[c] : largest;  // a NaN: by the sum
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < classes; ++c) sum += exp_vectorised(z[c] - largest);
  return {largest, A{1} / sum};
}

template <class A>
void forward(CpuStream stream, const SoftmaxResidualArgs& args) {
  const std::int64_t n = count_valid(args.valid_rows, args.rows), classes = args.classes;
  const A scale = n == 0 ? A{0} : static_cast<A>(1.0 / static_cast<double>(n));
  parallel_for(stream, args.rows, grain(classes), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      A* r = static_cast<A*>(args.residual) + row * classes;
      if (row >= n) {
        std::fill_n(r, classes, A{0});
        continue;
      }
      const std::int64_t label = args.labels[row];
      if (label < 0 || label >= classes) {
        std::fill_n(r, classes, std::numeric_limits<A>::quiet_NaN());
        continue;
      }
      const A* z = static_cast<const A*>(args.logits) + row * classes;
      const Softmax<A> p = softmax_of(z, classes);
      for (std::int64_t c = 0; c < classes; ++c) r[c] = (p(z[c]) - (c == label ? A{1} : A{0})) * scale;
    }
  });
}

template <class A>
void backward(CpuStream stream, const SoftmaxResidualBackwardArgs& args) {
  const std::int64_t n = count_valid(args.valid_rows, args.rows), classes = args.classes;
  const A scale = n == 0 ? A{0} : static_cast<A>(1.0 / static_cast<double>(n));
  const bool adds = args.mode == GradMode::kAccumulate;
  parallel_for(stream, args.rows, grain(classes), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      A* out = static_cast<A*>(args.grad_logits) + row * classes;
      if (row >= n) {
        if (!adds) std::fill_n(out, classes, A{0});
        continue;
      }
      const A* z = static_cast<const A*>(args.logits) + row * classes;
      const A* g = static_cast<const A*>(args.grad_residual) + row * classes;
      const Softmax<A> p = softmax_of(z, classes);
      A mean = 0;
#pragma omp simd reduction(+ : mean)
      for (std::int64_t c = 0; c < classes; ++c) mean += p(z[c]) * g[c];
      for (std::int64_t c = 0; c < classes; ++c)
        out[c] = (adds ? out[c] : A{0}) + p(z[c]) * (g[c] - mean) * scale;
    }
  });
}

}  // namespace

void softmax_residual(CpuStream stream, const SoftmaxResidualArgs& args) {
  check(args.classes >= 1, "softmax_residual: classes are positive");
  dispatch_accumulator(args.dtype, [&]<class A>(std::type_identity<A>) { forward<A>(stream, args); });
}

void softmax_residual_backward(CpuStream stream, const SoftmaxResidualBackwardArgs& args) {
  check(args.classes >= 1, "softmax_residual: classes are positive");
  dispatch_accumulator(args.dtype, [&]<class A>(std::type_identity<A>) { backward<A>(stream, args); });
}

}  // namespace cohort::kernels
