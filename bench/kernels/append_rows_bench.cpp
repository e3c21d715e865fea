// The results of an evaluation's batch. Bytes from kernels/append_rows.h.
#include "kernels/append_rows.h"

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

template <class T>
void append(benchmark::State& state, Mode mode) {
  const std::int64_t rows = bench::scaled(state.range(0)), columns = state.range(1);
  constexpr int kMembers = 2;
  bench::measure(state, mode,
                 {.bytes = static_cast<double>(kMembers * rows * columns) * (sizeof(T) + sizeof(float))},
                 [&](auto, Memory& memory) {
                   AppendRowsArgs args{.dtype = dtype_of<T>(),
                                       .members = kMembers,
                                       .cursor = memory.filled<std::int32_t>(1, 1),
                                       .rows = rows,
                                       .batch_size = rows,
                                       .columns = columns};
                   for (std::size_t m = 0; m < kMembers; ++m) {
                     args.in[m] = memory.normals<T>(rows * columns);
                     args.out[m] = memory.empty<float>(rows * columns);
                   }
                   return [args](auto stream) { append_rows(stream, args); };
                 });
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "columns"})->Args({128, 100})->Args({128, 1000})->Args({1024, 21841});
}

[[maybe_unused]] const bool registered = bench::add("append_rows/f32", &append<float>, shapes) &&
                                         bench::add("append_rows/bf16", &append<bf16>, shapes);

}  // namespace
}  // namespace cohort::kernels
