#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"
#include "kernels/cpu/parallel.h"
#include "kernels/pixel_cosine.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kElementsPerChunk = 16384;

std::int64_t grain(std::int64_t channels) {
  return std::max<std::int64_t>(1, kElementsPerChunk / std::max<std::int64_t>(1, channels));
}

template <class A>
struct Products {
  A ab = 0;
  A norm_a = 0;
  A norm_b = 0;
  A norms() const { return norm_a * norm_b; }
};

template <class T, class A = Accumulator<T>>
Products<A> products(const T* a, const T* b, std::int64_t channels) {
  A ab = 0;
  A aa = 0;
  A bb = 0;
#pragma omp simd reduction(+ : ab, aa, bb)
  for (std::int64_t c = 0; c < channels; ++c) {
    const A x = static_cast<A>(a[c]);
    const A y = static_cast<A>(b[c]);
    ab += x * y;
    aa += x * x;
    bb += y * y;
  }
  return {ab, std::sqrt(aa), std::sqrt(bb)};
}

template <class A>
A similarity(const Products<A>& p) {
  constexpr A kEps = static_cast<A>(kCosineEpsilon);
  return p.ab / (p.norms() < kEps ? kEps : p.norms());  // a NaN norm stays NaN
}

// grad (+)= k_other other + k_own own
template <class T, class A>
void write_gradient(const T* own, const T* other, std::int64_t channels, A k_own, A k_other, T* grad,
                    GradMode mode) {
  if (mode == GradMode::kOverwrite) {
    for (std::int64_t c = 0; c < channels; ++c) {
      grad[c] = static_cast<T>(k_other * static_cast<A>(other[c]) + k_own * static_cast<A>(own[c]));
    }
  } else {
    for (std::int64_t c = 0; c < channels; ++c) {
      const A g = k_other * static_cast<A>(other[c]) + k_own * static_cast<A>(own[c]);
      grad[c] = static_cast<T>(static_cast<A>(grad[c]) + g);
    }
  }
}

template <class T>
void forward(CpuStream stream, const PixelCosineArgs& args) {
  using A = Accumulator<T>;
  const auto* a = static_cast<const T*>(args.a);
  const auto* b = static_cast<const T*>(args.b);
  auto* s = static_cast<A*>(args.similarity);
  parallel_for(stream, args.positions, grain(args.channels), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      s[n] = similarity(products(a + n * args.channels, b + n * args.channels, args.channels));
    }
  });
}

template <class T>
void backward(CpuStream stream, const PixelCosineBackwardArgs& args) {
  using A = Accumulator<T>;
  const std::int64_t channels = args.channels;
  const auto* g = static_cast<const A*>(args.grad_similarity);
  parallel_for(stream, args.positions, grain(channels), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const T* a = static_cast<const T*>(args.a) + n * channels;
      const T* b = static_cast<const T*>(args.b) + n * channels;
      const Products<A> p = products(a, b, channels);
      const bool flat = p.norms() <= static_cast<A>(kCosineEpsilon);
      const A k = flat ? A{0} : g[n] / p.norms();
      const A s = similarity(p);
      const A k_a = flat ? A{0} : -k * s * (p.norm_b / p.norm_a);
      const A k_b = flat ? A{0} : -k * s * (p.norm_a / p.norm_b);
      if (args.grad_a != nullptr) {
        write_gradient(a, b, channels, k_a, k, static_cast<T*>(args.grad_a) + n * channels, args.grad_a_mode);
      }
      if (args.grad_b != nullptr) {
        write_gradient(b, a, channels, k_b, k, static_cast<T*>(args.grad_b) + n * channels, args.grad_b_mode);
      }
    }
  });
}

}  // namespace

void pixel_cosine(CpuStream stream, const PixelCosineArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { forward<T>(stream, args); });
}

void pixel_cosine_backward(CpuStream stream, const PixelCosineBackwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { backward<T>(stream, args); });
}

}  // namespace cohort::kernels
