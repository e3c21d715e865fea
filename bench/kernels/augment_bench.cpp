// A batch of 128 images from bytes to normalised numbers, for one and for two networks, alone and as a step
// does it, with a perturbation. Bytes from kernels/augment.h.
#include "kernels/augment.h"

#include <vector>

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

template <class T>
void augment_batch(benchmark::State& state, Mode mode) {
  constexpr std::int64_t kBatch = bench::scaled(128);
  const std::int64_t side = state.range(0), members = state.range(1);
  const std::int64_t images = side > 64 ? 256 : 4096, pixels = side * side * 3;
  const double bytes = static_cast<double>(members * kBatch * pixels) * (1 + sizeof(T));
  const double target = members != 1 || sizeof(T) != 2 ? 0 : side > 64 ? 30 : 3.5;
  bench::measure(state, mode, {.bytes = bytes, .target_us = target}, [&](auto, Memory& memory) {
    std::vector<void*> batches;
    for (std::int64_t m = 0; m < members; ++m) batches.push_back(memory.empty<T>(kBatch * pixels));
    AugmentArgs args{.images = memory.integers<std::uint8_t>(images * pixels, 256),
                     .indices = memory.integers<std::int32_t>(kBatch, images),
                     .batch_size = kBatch,
                     .height = static_cast<int>(side),
                     .width = static_cast<int>(side),
                     .dtype = dtype_of<T>(),
                     .independent = true};
    return [args, batches](auto stream) {
      AugmentArgs a = args;
      a.batches = batches;
      augment(stream, a);
    };
  });
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"side", "members"})->Args({32, 1})->Args({32, 2})->Args({224, 1});
}

[[maybe_unused]] const bool registered = bench::add("augment/f32", &augment_batch<float>, shapes) &&
                                         bench::add("augment/bf16", &augment_batch<bf16>, shapes);

}  // namespace
}  // namespace cohort::kernels
