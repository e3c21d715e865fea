// Targets from an epoch ago, out of CIFAR-100's table and one of ImageNet's width, batch 128. Bytes from
// kernels/temporal_target.h.
#include "kernels/temporal_target.h"

#include <vector>

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

void temporal(benchmark::State& state, Mode mode) {
  const std::int64_t rows = bench::scaled(state.range(0)), classes = state.range(1), samples = 64 * rows;
  bench::measure(state, mode, {.bytes = 16.0 * static_cast<double>(rows * classes)},
                 [&](auto, Memory& memory) {
                   std::vector<std::int32_t> indices(static_cast<std::size_t>(rows));
                   for (std::int64_t b = 0; b < rows; ++b)
                     indices[static_cast<std::size_t>(b)] = static_cast<std::int32_t>(b * 37 % samples);
                   const TemporalTargetArgs args{.rows = rows,
                                                 .classes = classes,
                                                 .samples = samples,
                                                 .logits = memory.normals<float>(rows * classes, 2),
                                                 .labels = memory.integers<std::int32_t>(rows, classes),
                                                 .indices = memory.copy_of(indices),
                                                 .delta = memory.filled<float>(1, 0.3),
                                                 .table = memory.filled<float>(samples * classes, 0.01),
                                                 .target = memory.empty<float>(rows * classes)};
                   return [args](auto stream) { temporal_target(stream, args); };
                 });
}

// From the answers of the network that was.
void former(benchmark::State& state, Mode mode) {
  const std::int64_t rows = bench::scaled(state.range(0)), classes = state.range(1);
  bench::measure(state, mode, {.bytes = 8.0 * static_cast<double>(rows * classes)},
                 [&](auto, Memory& memory) {
                   const TemporalTargetArgs args{.rows = rows,
                                                 .classes = classes,
                                                 .logits = memory.normals<float>(rows * classes, 2),
                                                 .labels = memory.integers<std::int32_t>(rows, classes),
                                                 .delta = memory.filled<float>(1, 0.3),
                                                 .former = memory.normals<float>(rows * classes, 2),
                                                 .target = memory.empty<float>(rows * classes)};
                   return [args](auto stream) { temporal_target(stream, args); };
                 });
}

const auto kSizes = [](auto* b) { b->ArgNames({"rows", "classes"})->Args({128, 100})->Args({128, 1000}); };

[[maybe_unused]] const bool registered =
    bench::add("temporal_target", &temporal, kSizes) && bench::add("temporal_target_former", &former, kSizes);

}  // namespace
}  // namespace cohort::kernels
