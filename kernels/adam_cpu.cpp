#include "kernels/adam.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"
#include "kernels/cpu/parallel.h"

namespace cohort::kernels {
namespace {

// Elements per chunk: 7 streams of 32 KiB stay inside an L2 cache of 256 KiB.
constexpr std::int64_t kGrain = 1 << 13;

template <class T>
struct Rule {
  T rate, root, beta1, beta2, rest1, rest2, epsilon, weight_decay;
};

template <bool kDecay, class T>
void update(const Rule<T>& rule, const AdamBlock& block, std::int64_t begin, std::int64_t end) {
  T* const p = static_cast<T*>(block.parameter);
  const T* const gradient = static_cast<const T*>(block.gradient);
  T* const mean = static_cast<T*>(block.mean);
  T* const square = static_cast<T*>(block.square);
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) {
    T g = gradient[i];
    if constexpr (kDecay) g += rule.weight_decay * p[i];
    const T m = rule.beta1 * mean[i] + rule.rest1 * g;
    const T v = rule.beta2 * square[i] + rule.rest2 * g * g;
    mean[i] = m;
    square[i] = v;
    p[i] -= rule.rate * m / (std::sqrt(v) * rule.root + rule.epsilon);
  }
  if (block.shadow == nullptr) return;
  bf16* const shadow = block.shadow;
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) shadow[i] = bf16(p[i]);
}

bool steps(const AdamArgs& args, const AdamBlock& block) {
  return args.step_mask == nullptr || args.step_mask[block.owner] != 0;
}

template <class T>
void adam(CpuStream stream, const AdamArgs& args, Workspace workspace) {
  auto* const scales = reinterpret_cast<AdamScale*>(workspace.data());
  std::int64_t num_chunks = 0;
  for (std::size_t b = 0; b < args.blocks.size(); ++b) {
    const AdamBlock& block = args.blocks[b];
    num_chunks += ceil_div(block.count, kGrain);
    if (!steps(args, block)) continue;
    scales[b] = adam_scale(static_cast<double>(static_cast<const T*>(args.learning_rate)[b]), args.beta1,
                           args.beta2, ++*block.steps);
  }
  parallel_chunks(stream, num_chunks, [&](std::int64_t chunk, int) {
    std::size_t b = 0;
    while (chunk >= ceil_div(args.blocks[b].count, kGrain)) {
      chunk -= ceil_div(args.blocks[b].count, kGrain);
      ++b;
    }
    const AdamBlock& block = args.blocks[b];
    if (!steps(args, block)) return;
    const Rule<T> rule{static_cast<T>(scales[b].rate),   static_cast<T>(scales[b].root),
                       static_cast<T>(args.beta1),       static_cast<T>(args.beta2),
                       static_cast<T>(1.0 - args.beta1), static_cast<T>(1.0 - args.beta2),
                       static_cast<T>(args.epsilon),     static_cast<T>(block.weight_decay)};
    const std::int64_t begin = chunk * kGrain;
    const std::int64_t end = std::min(block.count, begin + kGrain);
    if (rule.weight_decay == T{0}) return update<false>(rule, block, begin, end);
    update<true>(rule, block, begin, end);
  });
}

}  // namespace

void adam(CpuStream stream, const AdamArgs& args, Workspace workspace) {
  check(args.dtype == DType::f32 || args.dtype == DType::f64, "adam: parameters are f32 or f64");
  check(workspace.size() >= adam_workspace(args.blocks.size()), "adam: workspace too small");
  if (args.dtype == DType::f64) return adam<double>(stream, args, workspace);
  adam<float>(stream, args, workspace);
}

}  // namespace cohort::kernels
