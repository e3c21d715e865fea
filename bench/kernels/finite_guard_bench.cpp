// The flat gradient of ResNet-32 (470k) and of WRN-28-10 (36.5M). Bytes from kernels/finite_guard.h.
#include "kernels/finite_guard.h"

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

void guard(benchmark::State& state, Mode mode) {
  const std::int64_t count = bench::scaled(state.range(0));
  bench::measure(state, mode, {.bytes = 4.0 * static_cast<double>(count)}, [&](auto, Memory& memory) {
    const GradientBlock block{memory.normals<float>(count), count, 0};
    const float* const loss = memory.filled<float>(1, 1);
    const std::int32_t* const allowed = memory.filled<std::int32_t>(1, 1);
    std::int32_t* const mask = memory.empty<std::int32_t>(1);
    std::int32_t* const block_mask = memory.empty<std::int32_t>(1);
    return [=](auto stream) {
      finite_guard(stream, {.members = 1,
                            .blocks = {&block, 1},
                            .loss = loss,
                            .allowed = allowed,
                            .mask = mask,
                            .block_mask = block_mask});
    };
  });
}

[[maybe_unused]] const bool registered =
    bench::add("finite_guard", &guard, [](auto* b) { b->ArgName("count")->Arg(472'756)->Arg(36'536'884); });

}  // namespace
}  // namespace cohort::kernels
