// The classifier of a CIFAR ResNet-32 (64 features) and of a WRN-28-10 (640), 100 classes, batch 128:
// forward, gradient of the features, gradient of the weights; and the gradient of the bias. FLOP = 2 m n k,
// bytes of the sums: x once (kernels/matmul.h).
#include "kernels/matmul.h"

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

template <class A, class B>
void classifier(benchmark::State& state, Mode mode) {
  const std::int64_t batch = 128, classes = 100, features = state.range(0);
  const MatmulShape shapes[] = {{batch, classes, features, false, true},
                                {batch, features, classes, false, false},
                                {classes, features, batch, true, false}};
  const MatmulShape shape = shapes[state.range(1)];
  bench::measure(state, mode, {.flops = 2.0 * static_cast<double>(shape.m * shape.n * shape.k)},
                 [&](auto stream, Memory& memory) {
                   MatmulArgs args{.shape = shape,
                                   .a_dtype = dtype_of<A>(),
                                   .b_dtype = dtype_of<B>(),
                                   .a = memory.normals<A>(shape.m * shape.k),
                                   .b = memory.normals<B>(shape.n * shape.k),
                                   .c = memory.empty<float>(shape.m * shape.n)};
                   args.workspace = memory.workspace(matmul_workspace(stream, args));
                   return [args](auto on) { matmul(on, args); };
                 });
}

void bias(benchmark::State& state, Mode mode) {
  const std::int64_t rows = bench::scaled(state.range(0)), columns = state.range(1);
  bench::measure(state, mode, {.bytes = 4.0 * static_cast<double>(rows * columns)},
                 [&](auto stream, Memory& memory) {
                   ColumnSumArgs args{.rows = rows,
                                      .columns = columns,
                                      .x = memory.normals<float>(rows * columns),
                                      .sums = memory.empty<float>(columns)};
                   args.workspace = memory.workspace(column_sum_workspace(stream, args));
                   return [args](auto on) { column_sum(on, args); };
                 });
}

void passes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"features", "pass"})->ArgsProduct({{64, 640}, {0, 1, 2}});
}
void sums(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "columns"})->Args({128, 100})->Args({32768, 64});
}

[[maybe_unused]] const bool registered =
    bench::add("matmul/classifier/f32", &classifier<float, float>, passes) &&
    bench::add("matmul/classifier/bf16", &classifier<bf16, bf16>, passes) &&
    bench::add("matmul/classifier/f32_and_bf16", &classifier<float, bf16>, passes) &&
    bench::add("column_sum", &bias, sums);

}  // namespace
}  // namespace cohort::kernels
