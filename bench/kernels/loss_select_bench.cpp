// The choice of the teacher. Bytes from kernels/loss_select.h: the losses of every row, for row_winner.
#include "kernels/loss_select.h"

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

void select(benchmark::State& state, Mode mode) {
  const std::int64_t rows = state.range(0), members = state.range(1);
  bench::measure(state, mode, {.bytes = static_cast<double>(members * rows) * sizeof(float)},
                 [&](auto, Memory& memory) {
                   const LossSelectArgs args{.members = static_cast<int>(members),
                                             .rows = rows,
                                             .feature = 1,
                                             .ce = memory.normals<float>(members),
                                             .ce_rows = memory.normals<float>(members * rows),
                                             .teacher = memory.empty<std::int32_t>(1),
                                             .row_winner = memory.empty<std::int32_t>(rows),
                                             .kl_weight = memory.empty<float>(members * members),
                                             .feature_weight = memory.empty<float>(members * members)};
                   return [args](auto stream) { loss_select(stream, args); };
                 });
}

[[maybe_unused]] const bool registered = bench::add("loss_select", &select, [](auto* b) {
  b->ArgNames({"rows", "members"})->Args({128, 2})->Args({128, 4})->Args({1024, 4});
});

}  // namespace
}  // namespace cohort::kernels
