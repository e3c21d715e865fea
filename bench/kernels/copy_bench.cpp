// The ceiling of the others: a copy of one buffer to another. Bytes: read and written.
#include "bench/support/device_bench.h"
#include "bench/support/device_clock.h"

namespace cohort::bench {
namespace {

void copy(benchmark::State& state, Mode mode) {
  const std::int64_t bytes = scaled(state.range(0) << 20);
  measure(state, mode, {.bytes = 2.0 * static_cast<double>(bytes)}, [&](auto, Memory& memory) {
    const float* const from = memory.normals<float>(bytes / 4);
    float* const to = memory.empty<float>(bytes / 4);
    return [=](auto stream) { copy_on_device(stream, to, from, static_cast<std::size_t>(bytes)); };
  });
}

[[maybe_unused]] const bool registered =
    add("copy", &copy, [](auto* b) { b->ArgName("MiB")->Arg(1)->Arg(8)->Arg(32)->Arg(512); });

}  // namespace
}  // namespace cohort::bench
