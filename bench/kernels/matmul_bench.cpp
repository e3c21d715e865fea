// The classifier of a CIFAR ResNet-32 (64 features) and of a WRN-28-10 (640), 100 classes, batch 128:
// forward, gradient of the features, gradient of the weights. FLOP = 2 m n k (kernels/matmul.h).
#include "kernels/matmul.h"

#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/cpu/thread_pool.h"

namespace cohort::kernels {
namespace {

void classifier(benchmark::State& state) {
  static ThreadPool pool;
  const std::int64_t batch = 128, classes = 100, features = state.range(0);
  const MatmulShape shapes[] = {{batch, classes, features, false, true},
                                {batch, features, classes, false, false},
                                {classes, features, batch, true, false}};
  const MatmulShape shape = shapes[state.range(1)];
  std::vector<float> a(static_cast<std::size_t>(shape.m * shape.k), 0.5F),
      b(static_cast<std::size_t>(shape.n * shape.k), 0.25F), c(static_cast<std::size_t>(shape.m * shape.n));
  MatmulArgs args{.shape = shape, .a = a.data(), .b = b.data(), .c = c.data()};
  std::vector<std::byte> scratch(matmul_workspace(CpuStream{&pool}, args) + 64);
  const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(scratch.data()) % 64;
  args.workspace = {scratch.data() + (64 - misaligned) % 64, scratch.size() - 64};
  for (auto _ : state) {
    matmul(CpuStream{&pool}, args);
    benchmark::ClobberMemory();
  }
  state.counters["FLOP/s"] = benchmark::Counter(2.0 * static_cast<double>(shape.m * shape.n * shape.k),
                                                benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(classifier)->ArgNames({"features", "pass"})->ArgsProduct({{64, 640}, {0, 1, 2}})->UseRealTime();

}  // namespace
}  // namespace cohort::kernels
