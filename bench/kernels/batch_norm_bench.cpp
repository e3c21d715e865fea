// Batch norm on the layers of CIFAR ResNets at batch 128, beside a memcpy of the same activations: the share
// of the memory's speed that it reaches is bytes/s here over bytes/s there. Bytes from the formulas of
// kernels/batch_norm.h.
#include <benchmark/benchmark.h>

#include <cstring>
#include <random>
#include <vector>

#include "kernels/batch_norm.h"
#include "kernels/cpu/parallel.h"

namespace cohort::kernels {
namespace {

CpuStream stream() {
  static ThreadPool pool;
  return {&pool};
}

template <class T>
struct Activations {
  using A = Accumulator<T>;

  explicit Activations(const benchmark::State& state)
      : shape{128 * state.range(0) * state.range(0), state.range(1)},
        x(count()),
        y(count()),
        residual(count()),
        grad_y(count()),
        grad_x(count()),
        grad_residual(count()),
        parameter(6, std::vector<A>(static_cast<std::size_t>(shape.channels), A{1})),
        workspace(batch_norm_workspace(shape)) {
    std::minstd_rand random(1);
    std::normal_distribution<float> normal;
    for (T& v : x) v = static_cast<T>(normal(random));
    for (T& v : residual) v = static_cast<T>(normal(random));
    for (T& v : grad_y) v = static_cast<T>(normal(random));
  }

  std::size_t count() const { return static_cast<std::size_t>(shape.rows * shape.channels); }

  BatchNormForwardArgs forward(bool fused) {
    return {.dtype = dtype_of<T>(),
            .shape = shape,
            .x = x.data(),
            .residual = fused ? residual.data() : nullptr,
            .gamma = parameter[0].data(),
            .beta = parameter[1].data(),
            .mean = parameter[2].data(),
            .invstd = parameter[3].data(),
            .y = y.data(),
            .relu = fused,
            .workspace = workspace};
  }

  BatchNormBackwardArgs backward(bool fused) {
    return {.dtype = dtype_of<T>(),
            .shape = shape,
            .x = x.data(),
            .y = y.data(),
            .grad_y = grad_y.data(),
            .gamma = parameter[0].data(),
            .mean = parameter[2].data(),
            .invstd = parameter[3].data(),
            .grad_x = grad_x.data(),
            .grad_residual = fused ? grad_residual.data() : nullptr,
            .grad_gamma = parameter[4].data(),
            .grad_beta = parameter[5].data(),
            .relu = fused,
            .workspace = workspace};
  }

  void report(benchmark::State& state, int passes) const {
    state.SetBytesProcessed(state.iterations() * passes * static_cast<std::int64_t>(count() * sizeof(T)));
  }

  BatchNormShape shape;
  std::vector<T> x, y, residual, grad_y, grad_x, grad_residual;
  std::vector<std::vector<A>> parameter;
  std::vector<std::byte> workspace;
};

template <class T>
void memory_copy(benchmark::State& state) {
  Activations<T> a(state);
  for (auto _ : state) {
    parallel_for(stream(), static_cast<std::int64_t>(a.count()), 1 << 15,
                 [&](std::int64_t begin, std::int64_t end) {
                   std::memcpy(&a.y[static_cast<std::size_t>(begin)], &a.x[static_cast<std::size_t>(begin)],
                               static_cast<std::size_t>(end - begin) * sizeof(T));
                 });
    benchmark::ClobberMemory();
  }
  a.report(state, 2);
}

template <class T, bool kFused>
void batch_norm_forward(benchmark::State& state) {
  Activations<T> a(state);
  for (auto _ : state) {
    kernels::batch_norm_forward(stream(), a.forward(kFused));
    benchmark::ClobberMemory();
  }
  a.report(state, kFused ? 4 : 3);
}

template <class T, bool kFused>
void batch_norm_backward(benchmark::State& state) {
  Activations<T> a(state);
  kernels::batch_norm_forward(stream(), a.forward(kFused));
  for (auto _ : state) {
    kernels::batch_norm_backward(stream(), a.backward(kFused));
    benchmark::ClobberMemory();
  }
  a.report(state, kFused ? 7 : 5);
}

void layers(benchmark::internal::Benchmark* b) {
  b->ArgNames({"side", "channels"})->Unit(benchmark::kMicrosecond)->UseRealTime()->MinTime(0.2);
  b->Args({32, 16})->Args({16, 32})->Args({8, 64})->Args({32, 64})->Args({8, 256});
}

BENCHMARK(memory_copy<float>)->Apply(layers);
BENCHMARK(batch_norm_forward<float, false>)->Apply(layers);
BENCHMARK(batch_norm_forward<float, true>)->Apply(layers);
BENCHMARK(batch_norm_backward<float, false>)->Apply(layers);
BENCHMARK(batch_norm_backward<float, true>)->Apply(layers);
BENCHMARK(memory_copy<bf16>)->Apply(layers);
BENCHMARK(batch_norm_forward<bf16, false>)->Apply(layers);
BENCHMARK(batch_norm_forward<bf16, true>)->Apply(layers);
BENCHMARK(batch_norm_backward<bf16, false>)->Apply(layers);
BENCHMARK(batch_norm_backward<bf16, true>)->Apply(layers);

}  // namespace
}  // namespace cohort::kernels
