// One optimiser step of a cohort: two ResNet-32 (466,906 parameters each), and an ImageNet ResNet-18 with a
// ResNet-34. Bytes from kernels/sgd.h.
#include "kernels/sgd.h"

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
  const double target = !kShadow ? 0 : total < 1e6 ? 6 : 280;
  bench::measure(state, mode, {.bytes = total * (kShadow ? 22 : 20), .target_us = target},
                 [&](auto, Memory& memory) {
                   std::vector<SgdMember> members;
                   for (const std::int64_t count : counts) {
                     members.push_back({.parameter = memory.normals<float>(count),
                                        .gradient = memory.normals<float>(count, 1e-2),
                                        .momentum = memory.normals<float>(count, 1e-2),
                                        .shadow = kShadow ? memory.empty<bf16>(count) : nullptr,
                                        .count = count,
                                        .weight_decay = 5e-4});
                   }
                   const float* const rates = memory.filled<float>(2, 1e-4);
                   return [members, rates](auto stream) {
                     sgd(stream, {.members = members, .learning_rate = rates, .nesterov = true});
                   };
                 });
}

void cohorts(benchmark::internal::Benchmark* b) {
  b->ArgNames({"a", "b"})->Args({466'906, 466'906})->Args({11'689'512, 21'797'672});
}

[[maybe_unused]] const bool registered = bench::add("sgd_step/f32", &step<false>, cohorts) &&
                                         bench::add("sgd_step/f32_and_bf16_copy", &step<true>, cohorts);

}  // namespace
}  // namespace cohort::kernels
