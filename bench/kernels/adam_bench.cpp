// One Adam step of two ResNet-32 (466,906 parameters each), and of an ImageNet ResNet-18 with a ResNet-34.
// Bytes from kernels/adam.h.
#include "kernels/adam.h"

#include <vector>

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

template <bool kShadow>
void step(benchmark::State& state, Mode mode) {
  const std::vector<std::int64_t> counts = {bench::scaled(state.range(0)), bench::scaled(state.range(1))};
  const auto total = static_cast<double>(counts[0] + counts[1]);
  bench::measure(state, mode, {.bytes = total * (kShadow ? 30 : 28)}, [&](auto, Memory& memory) {
    std::vector<AdamBlock> blocks;
    for (const std::int64_t count : counts) {
      blocks.push_back({.parameter = memory.normals<float>(count),
                        .gradient = memory.normals<float>(count, 1e-2),
                        .mean = memory.normals<float>(count, 1e-3),
                        .square = memory.filled<float>(count, 1e-6),
                        .steps = memory.filled<std::int32_t>(1, 0),
                        .shadow = kShadow ? memory.empty<bf16>(count) : nullptr,
                        .count = count,
                        .weight_decay = 0.1});
    }
    const float* const rates = memory.filled<float>(2, 2e-5);
    const Workspace scratch = memory.workspace(adam_workspace(blocks.size()));
    return [blocks, rates, scratch](auto stream) {
      adam(stream, {.blocks = blocks, .learning_rate = rates}, scratch);
    };
  });
}

void cohorts(benchmark::internal::Benchmark* b) {
  b->ArgNames({"a", "b"})->Args({466'906, 466'906})->Args({11'689'512, 21'797'672});
}

[[maybe_unused]] const bool registered = bench::add("adam_step/f32", &step<false>, cohorts) &&
                                         bench::add("adam_step/f32_and_bf16_copy", &step<true>, cohorts);

}  // namespace
}  // namespace cohort::kernels
