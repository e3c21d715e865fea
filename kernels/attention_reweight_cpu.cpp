#include "kernels/attention_reweight.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/cpu/parallel.h"

namespace cohort::kernels {
namespace {

constexpr double kEpsilon = 1e-5;
constexpr double kFlat = 1e-4;
constexpr std::int64_t kElementsPerChunk = 16384;
constexpr std::int64_t kChannelBlock = 1024;  // sums of one block of channels live on the stack

std::int64_t grain(std::int64_t elements_per_sample) {
  return std::max<std::int64_t>(1, kElementsPerChunk / std::max<std::int64_t>(1, elements_per_sample));
}

// out = (1 + sign S) / (mean (1 + sign S) + eps)
template <class A>
void weight_map(const A* s, std::int64_t positions, A sign, A* out) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t p = 0; p < positions; ++p) sum += 1 + sign * s[p];
  const A mean = sum / static_cast<A>(positions);
  if (mean < static_cast<A>(kFlat)) {
    std::fill_n(out, positions, A{1});
    return;
  }
  const A divisor = mean + static_cast<A>(kEpsilon);
  for (std::int64_t p = 0; p < positions; ++p) out[p] = (1 + sign * s[p]) / divisor;
}

template <class A>
void weights(CpuStream stream, const AttentionWeightsArgs& args) {
  const std::int64_t positions = args.positions;
  const auto* s = static_cast<const A*>(args.similarity);
  parallel_for(stream, args.samples, grain(positions), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const std::int64_t at = n * positions;
      if (args.co != nullptr) weight_map(s + at, positions, A{1}, static_cast<A*>(args.co) + at);
      if (args.di != nullptr) weight_map(s + at, positions, A{-1}, static_cast<A*>(args.di) + at);
    }
  });
}

// One block of channels of one sample.
template <class T, class A>
void pool_block(const T* features, const A* weight, std::int64_t positions, std::int64_t channels,
                std::int64_t block, bool relu, T* pooled) {
  alignas(64) A sum[kChannelBlock] = {};
  for (std::int64_t p = 0; p < positions; ++p) {
    const T* f = features + p * channels;
    const A a = weight[p];
    if (relu) {
#pragma omp simd
      for (std::int64_t c = 0; c < block; ++c) {
        const A v = static_cast<A>(f[c]);
        sum[c] += a * (v < 0 ? A{0} : v);
      }
    } else {
#pragma omp simd
      for (std::int64_t c = 0; c < block; ++c) sum[c] += a * static_cast<A>(f[c]);
    }
  }
  const A inv = 1 / static_cast<A>(positions);
  for (std::int64_t c = 0; c < block; ++c) pooled[c] = static_cast<T>(sum[c] * inv);
}

template <class T>
void pool(CpuStream stream, const AttentionPoolArgs& args) {
  using A = Accumulator<T>;
  const std::int64_t sample = args.positions * args.channels;
  parallel_for(stream, args.samples, grain(sample), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      for (std::int64_t c = 0; c < args.channels; c += kChannelBlock) {
        pool_block(static_cast<const T*>(args.features) + n * sample + c,
                   static_cast<const A*>(args.weights) + n * args.positions, args.positions, args.channels,
                   std::min(kChannelBlock, args.channels - c), args.relu,
                   static_cast<T*>(args.pooled) + n * args.channels + c);
      }
    }
  });
}

// grad[c] (+)= scale g[c] where f[c] > 0, or everywhere (f null); at most kChannelBlock channels. The product
// goes through the stack so that the choice is between two loads: a multiplication may not be moved out of a
// branch (it could trap), and a branch per element on random signs costs ten times the loop.
template <class T, class A>
void spread(const T* f, const T* g, std::int64_t channels, A scale, T* grad, GradMode mode) {
  alignas(64) A d[kChannelBlock];
#pragma omp simd
  for (std::int64_t c = 0; c < channels; ++c) d[c] = scale * static_cast<A>(g[c]);
  if (f != nullptr) {
#pragma omp simd
    for (std::int64_t c = 0; c < channels; ++c) d[c] = static_cast<A>(f[c]) <= 0 ? A{0} : d[c];
  }
  if (mode == GradMode::kOverwrite) {
    for (std::int64_t c = 0; c < channels; ++c) grad[c] = static_cast<T>(d[c]);
  } else {
    for (std::int64_t c = 0; c < channels; ++c) grad[c] = static_cast<T>(static_cast<A>(grad[c]) + d[c]);
  }
}

template <class T>
void pool_backward(CpuStream stream, const AttentionPoolBackwardArgs& args) {
  using A = Accumulator<T>;
  const std::int64_t channels = args.channels;
  const A inv = 1 / static_cast<A>(args.positions);
  const auto* weight = static_cast<const A*>(args.weights);
  const std::int64_t total = args.samples * args.positions;
  parallel_for(stream, total, grain(channels), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      const T* g = static_cast<const T*>(args.grad_pooled) + p / args.positions * channels;
      T* grad = static_cast<T*>(args.grad_features) + p * channels;
      const T* f = args.relu ? static_cast<const T*>(args.features) + p * channels : nullptr;
      for (std::int64_t c = 0; c < channels; c += kChannelBlock) {
        const std::int64_t block = std::min(kChannelBlock, channels - c);
        spread(f == nullptr ? f : f + c, g + c, block, weight[p] * inv, grad + c, args.grad_mode);
      }
    }
  });
}

}  // namespace

void attention_weights(CpuStream stream, const AttentionWeightsArgs& args) {
  check(args.dtype == DType::f32 || args.dtype == DType::f64, "attention_weights: maps are f32 or f64");
  if (args.dtype == DType::f64) {
    weights<double>(stream, args);
  } else {
    weights<float>(stream, args);
  }
}

void attention_pool(CpuStream stream, const AttentionPoolArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { pool<T>(stream, args); });
}

void attention_pool_backward(CpuStream stream, const AttentionPoolBackwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { pool_backward<T>(stream, args); });
}

}  // namespace cohort::kernels
