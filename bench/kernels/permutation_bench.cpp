// The order of an epoch of CIFAR and of ImageNet. Bytes: an index read and written, a 64-bit key written
// once; what the sort moves on top of that is its own affair.
#include "kernels/permutation.h"

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

void permute(benchmark::State& state, Mode mode) {
  const std::int64_t count = bench::scaled(state.range(0));
  bench::measure(state, mode, {.bytes = 16.0 * static_cast<double>(count), .capturable = false},
                 [&](auto stream, Memory& memory) {
                   const PermutationArgs args{.values = memory.integers<std::int32_t>(count, count),
                                              .out = memory.empty<std::int32_t>(count),
                                              .count = count,
                                              .seed = 1,
                                              .epoch = 2};
                   const Workspace scratch = memory.workspace(permutation_workspace(stream, count));
                   return [=](auto on) { permutation(on, args, scratch); };
                 });
}

[[maybe_unused]] const bool registered =
    bench::add("permutation", &permute, [](auto* b) { b->ArgName("images")->Arg(50'000)->Arg(1'281'167); });

}  // namespace
}  // namespace cohort::kernels
