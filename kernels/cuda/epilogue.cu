#include "kernels/cuda/epilogue.h"

#include "kernels/base/rehearsal.h"
#include "kernels/cuda/simt.cuh"
#include "kernels/cuda/vec.cuh"

namespace cohort::kernels::cuda {
namespace {

constexpr int kBlock = 256;

unsigned blocks_for(std::int64_t threads) {
  return static_cast<unsigned>((threads + kBlock - 1) / kBlock);
}

__device__ inline std::int64_t global_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x;
}

__global__ void widen_kernel(const bf16* from, float* to, std::int64_t count) {
  constexpr int kWidth = Vec<bf16>::kWidth;
  const std::int64_t at = global_thread() * kWidth;
  if (at >= count) return;
  const bool whole = at + kWidth <= count && aligned16(from);
  const auto part = static_cast<int>(at + kWidth <= count ? kWidth : count - at);
  const Vec<bf16> values = whole ? Vec<bf16>::load(from + at) : Vec<bf16>::load_part(from + at, part);
  for (int half = 0; half < 2; ++half) {
    Vec<float> out;
    for (int i = 0; i < Vec<float>::kWidth; ++i) out[i] = values[half * Vec<float>::kWidth + i];
    float* const target = to + at + half * Vec<float>::kWidth;
    const int left = part - half * Vec<float>::kWidth;
    if (left >= Vec<float>::kWidth) {
      out.store(target);
    } else if (left > 0) {
      out.store_part(target, left);
    }
  }
}

template <class T>
__global__ void finish_kernel(std::int64_t count, std::int64_t columns, const Accumulator<T>* sums,
                              const Accumulator<T>* bias, T* result, bool accumulate) {
  const std::int64_t at = global_thread();
  if (at >= count) return;
  Accumulator<T> value = accumulate ? to_float(result[at]) + sums[at] : sums[at];
  if (bias != nullptr) value += bias[at % columns];
  result[at] = from_float<T>(value);
}

}  // namespace

void widen(CudaStream stream, const void* from, float* to, std::int64_t count) {
  const Rehearsed rehearsed(stream, "cast", {6 * count});
  const std::int64_t threads = (count + Vec<bf16>::kWidth - 1) / Vec<bf16>::kWidth;
  simt::launch(widen_kernel, {.grid = blocks_for(threads), .block = kBlock, .stream = stream},
               static_cast<const bf16*>(from), to, count);
}

void finish(CudaStream stream, const FinishArgs& a) {
  const std::int64_t count = a.rows * a.columns;
  const Rehearsed rehearsed(stream, "finish",
                            {bytes_of(accumulator_of(a.dtype), count) + written(a.dtype, count, a.mode)});
  dispatch_float(a.dtype, [&]<class T>(std::type_identity<T>) {
    simt::launch(finish_kernel<T>, {.grid = blocks_for(count), .block = kBlock, .stream = stream}, count,
                 a.columns, static_cast<const Accumulator<T>*>(a.sums),
                 static_cast<const Accumulator<T>*>(a.bias), static_cast<T*>(a.result),
                 a.mode == GradMode::kAccumulate);
  });
}

}  // namespace cohort::kernels::cuda
