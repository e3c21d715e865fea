#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"
#include "kernels/cpu/parallel.h"
#include "kernels/logit_standardise.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kElementsPerChunk = 8192;

std::int64_t grain(std::int64_t classes) {
  return std::max<std::int64_t>(1, kElementsPerChunk / classes);
}

template <class A>
struct Moments {
  A mean, inv_deviation;
};

template <class T, class A = Accumulator<T>>
Moments<A> moments(const T* z, std::int64_t classes, double epsilon) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < classes; ++c) sum += static_cast<A>(z[c]);
  const A mean = sum / static_cast<A>(classes);
  A squares = 0;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t c = 0; c < classes; ++c) {
    const A d = static_cast<A>(z[c]) - mean;
    squares += d * d;
  }
  return {mean, A{1} / std::sqrt(squares / static_cast<A>(classes) + static_cast<A>(epsilon))};
}

template <class T>
void forward(CpuStream stream, const LogitStandardiseArgs& args) {
  using A = Accumulator<T>;
  const std::int64_t classes = args.classes;
  parallel_for(stream, args.rows, grain(classes), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* z = static_cast<const T*>(args.logits) + row * classes;
      T* y = static_cast<T*>(args.standardised) + row * classes;
      const Moments<A> m = moments(z, classes, args.epsilon);
      const A scale = static_cast<A>(args.factor) * m.inv_deviation;
      for (std::int64_t c = 0; c < classes; ++c)
        y[c] = static_cast<T>(scale * (static_cast<A>(z[c]) - m.mean));
    }
  });
}

template <class T>
void backward(CpuStream stream, const LogitStandardiseBackwardArgs& args) {
  using A = Accumulator<T>;
  const std::int64_t classes = args.classes;
  const bool adds = args.mode == GradMode::kAccumulate;
  parallel_for(stream, args.rows, grain(classes), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* z = static_cast<const T*>(args.logits) + row * classes;
      const T* g = static_cast<const T*>(args.grad_standardised) + row * classes;
      T* out = static_cast<T*>(args.grad_logits) + row * classes;
      const Moments<A> m = moments(z, classes, args.epsilon);
      A sum = 0, along = 0;
#pragma omp simd reduction(+ : sum, along)
      for (std::int64_t c = 0; c < classes; ++c) {
        const A gradient = static_cast<A>(g[c]);
        sum += gradient;
        along += gradient * (static_cast<A>(z[c]) - m.mean);
      }
      sum /= static_cast<A>(classes);
      along *= m.inv_deviation / static_cast<A>(classes);
      const A scale = static_cast<A>(args.factor) * m.inv_deviation;
      for (std::int64_t c = 0; c < classes; ++c) {
        const A u = (static_cast<A>(z[c]) - m.mean) * m.inv_deviation;
        const A gradient = scale * (static_cast<A>(g[c]) - sum - u * along);
        out[c] = static_cast<T>(adds ? static_cast<A>(out[c]) + gradient : gradient);
      }
    }
  });
}

}  // namespace

void logit_standardise(CpuStream stream, const LogitStandardiseArgs& args) {
  check(args.classes >= 1 && args.epsilon > 0, "logit_standardise: classes and epsilon are positive");
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { forward<T>(stream, args); });
}

void logit_standardise_backward(CpuStream stream, const LogitStandardiseBackwardArgs& args) {
  check(args.classes >= 1 && args.epsilon > 0, "logit_standardise: classes and epsilon are positive");
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { backward<T>(stream, args); });
}

}  // namespace cohort::kernels
