#include "kernels/finite_guard.h"

#include <atomic>
#include <cmath>

#include "kernels/cpu/parallel.h"

namespace cohort::kernels {
namespace {

// x * 0 is 0 for finite x and NaN otherwise, and NaN survives every later addition: one multiply-add per
// element.
template <class T>
bool all_finite(const T* data, std::int64_t count) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) sum += data[i] * T{0};
  return sum == T{0};
}

template <class T>
void guard(CpuStream stream, const FiniteGuardArgs& args) {
  for (int m = 0; m < args.members; ++m) {
    args.mask[m] = args.allowed[m] != 0 && std::isfinite(static_cast<const T*>(args.loss)[m]) ? 1 : 0;
  }
  for (const GradientBlock& block : args.blocks) {
    if (args.mask[block.member] == 0) continue;
    std::atomic<bool> finite{true};
    parallel_for(stream, block.count, 1 << 16, [&](std::int64_t begin, std::int64_t end) {
      if (!all_finite(static_cast<const T*>(block.data) + begin, end - begin)) finite.store(false);
    });
    if (!finite.load()) args.mask[block.member] = 0;
  }
  for (std::size_t b = 0; b < args.blocks.size(); ++b) args.block_mask[b] = args.mask[args.blocks[b].member];
}

}  // namespace

void finite_guard(CpuStream stream, const FiniteGuardArgs& args) {
  if (args.dtype == DType::f64) {
    guard<double>(stream, args);
  } else {
    check(args.dtype == DType::f32, "finite_guard: gradients are f32 or f64");
    guard<float>(stream, args);
  }
}

}  // namespace cohort::kernels
