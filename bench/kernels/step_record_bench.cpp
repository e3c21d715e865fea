// The last kernel of a step: a row of figures into memory that the host reads. Bytes: each source read, a
// double written.
#include "kernels/step_record.h"

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

// The sources of a run of `members`: seven values and a row of the teaching matrix each, and a dozen of the
// cohort.
void record(benchmark::State& state, Mode mode) {
  constexpr std::int64_t kCapacity = 256;
  const auto members = static_cast<std::int32_t>(state.range(0));
  const int sources = 8 * members + 12;
  std::int64_t width = 0;
  for (int i = 0; i < sources; ++i) width += i < members ? members : 1;
  bench::measure(state, mode, {.bytes = 12.0 * static_cast<double>(width)}, [&](auto, Memory& memory) {
    StepRecordArgs args{.num_sources = sources,
                        .ring = static_cast<double*>(
                            memory.pinned(static_cast<std::size_t>(width * kCapacity) * sizeof(double))),
                        .width = width,
                        .capacity = kCapacity,
                        .step = memory.filled<std::int32_t>(1, 3)};
    for (int i = 0; i < sources; ++i) {
      const std::int32_t count = i < members ? members : 1;
      args.sources[static_cast<std::size_t>(i)] = {memory.normals<float>(count), count, DType::f32};
    }
    return [args](auto stream) { step_record(stream, args); };
  });
}

[[maybe_unused]] const bool registered =
    bench::add("step_record", &record, [](auto* b) { b->ArgName("members")->Arg(2)->Arg(4); });

}  // namespace
}  // namespace cohort::kernels
