// The first kernel of a step: what it costs is its latency. Bytes from kernels/step_feed.h.
#include "kernels/step_feed.h"

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

// Each call moves the cursor on and a bench makes millions: batches of stride 0 and no learning rates, so
// that no table ends before it.
void feed(benchmark::State& state, Mode mode) {
  const std::int64_t rows = state.range(0);
  bench::measure(state, mode, {.bytes = 8.0 * static_cast<double>(rows)}, [&](auto, Memory& memory) {
    const StepFeedArgs args{.order = memory.integers<std::int32_t>(rows, 50000),
                            .epoch_of = memory.filled<std::int32_t>(2, 1),
                            .cursor = memory.filled<std::int32_t>(1, 0),
                            .indices = memory.empty<std::int32_t>(rows),
                            .epoch = memory.empty<std::int32_t>(1),
                            .step = memory.empty<std::int32_t>(1),
                            .rows = rows};
    return [args](auto stream) { step_feed(stream, args); };
  });
}

[[maybe_unused]] const bool registered =
    bench::add("step_feed", &feed, [](auto* b) { b->ArgName("rows")->Arg(128)->Arg(1024); });

}  // namespace
}  // namespace cohort::kernels
