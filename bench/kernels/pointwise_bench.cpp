// Elementwise kernels on one activation of a CIFAR ResNet's first stage at batch 128. Bytes from
// kernels/pointwise.h.
#include "kernels/pointwise.h"

#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/cpu/thread_pool.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kCount = std::int64_t{128} * 32 * 32 * 16;

CpuStream stream() {
  static ThreadPool pool;
  return {&pool};
}

template <class T, class F>
void run(benchmark::State& state, int passes, F&& f) {
  std::vector<T> a(kCount, static_cast<T>(1.0F)), b(kCount, static_cast<T>(-1.0F)), y(kCount);
  for (auto _ : state) {
    f(a.data(), b.data(), y.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * passes * kCount * static_cast<std::int64_t>(sizeof(T)));
}

template <class T>
void relu_backward(benchmark::State& state) {
  run<T>(state, 3, [](const T* y, const T* grad_y, T* grad_x) {
    kernels::relu_backward(
        stream(), {.dtype = dtype_of<T>(), .count = kCount, .y = y, .grad_y = grad_y, .grad_x = grad_x});
  });
}

template <class T>
void add(benchmark::State& state) {
  run<T>(state, 3, [](const T* a, const T* b, T* y) {
    kernels::add(stream(), {.dtype = dtype_of<T>(), .count = kCount, .a = a, .b = b, .y = y});
  });
}

template <class T>
void accumulate(benchmark::State& state) {
  run<T>(state, 3, [](const T* x, const T*, T* y) {
    kernels::scale(stream(),
                   {.dtype = dtype_of<T>(), .count = kCount, .x = x, .y = y, .mode = GradMode::kAccumulate});
  });
}

BENCHMARK(relu_backward<float>)->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(relu_backward<bf16>)->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(add<float>)->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(add<bf16>)->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(accumulate<float>)->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(accumulate<bf16>)->UseRealTime()->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace cohort::kernels
