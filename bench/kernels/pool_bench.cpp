// Pooling at the shapes of VGG-8 (2 x 2), an ImageNet stem (3 x 3, stride 2) and a CIFAR ResNet's end
// (global). Bytes from kernels/pool.h.
#include "kernels/pool.h"

#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/cpu/thread_pool.h"

namespace cohort::kernels {
namespace {

CpuStream stream() {
  static ThreadPool pool;
  return {&pool};
}

template <class T>
struct Maps {
  explicit Maps(const PoolShape& s)
      : x(static_cast<std::size_t>(s.batch * s.height * s.width * s.channels), static_cast<T>(1.0F)),
        y(static_cast<std::size_t>(s.batch * s.out_height * s.out_width * s.channels)),
        argmax(y.size()) {}

  void report(benchmark::State& state, std::size_t bytes_per_output) const {
    const std::size_t bytes = x.size() * sizeof(T) + y.size() * bytes_per_output;
    state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(bytes));
  }

  std::vector<T> x, y;
  std::vector<std::int32_t> argmax;
};

template <class T, bool kBackward>
void max_pool(benchmark::State& state) {
  const bool stem = state.range(0) == 3;
  const PoolShape shape = stem ? PoolShape{8, 112, 112, 64, 56, 56} : PoolShape{128, 32, 32, 64, 16, 16};
  const PoolWindow window = stem ? PoolWindow{3, 2, 1} : PoolWindow{2, 2, 0};
  Maps<T> m(shape);
  for (auto _ : state) {
    if constexpr (kBackward) {
      max_pool_backward(stream(), {.dtype = dtype_of<T>(),
                                   .shape = shape,
                                   .window = window,
                                   .grad_y = m.y.data(),
                                   .argmax = m.argmax.data(),
                                   .grad_x = m.x.data()});
    } else {
      max_pool_forward(stream(), {.dtype = dtype_of<T>(),
                                  .shape = shape,
                                  .window = window,
                                  .x = m.x.data(),
                                  .y = m.y.data(),
                                  .argmax = m.argmax.data()});
    }
    benchmark::ClobberMemory();
  }
  m.report(state, sizeof(T) + sizeof(std::int32_t));
}

template <class T, bool kBackward>
void global_avg_pool(benchmark::State& state) {
  const PoolShape shape{128, 8, 8, 64, 1, 1};
  Maps<T> m(shape);
  for (auto _ : state) {
    if constexpr (kBackward) {
      global_avg_pool_backward(
          stream(), {.dtype = dtype_of<T>(), .shape = shape, .grad_y = m.y.data(), .grad_x = m.x.data()});
    } else {
      global_avg_pool_forward(stream(),
                              {.dtype = dtype_of<T>(), .shape = shape, .x = m.x.data(), .y = m.y.data()});
    }
    benchmark::ClobberMemory();
  }
  m.report(state, sizeof(T));
}

BENCHMARK(max_pool<float, false>)->Arg(2)->Arg(3)->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(max_pool<float, true>)->Arg(2)->Arg(3)->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(max_pool<bf16, false>)->Arg(2)->Arg(3)->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(global_avg_pool<float, false>)->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(global_avg_pool<float, true>)->UseRealTime()->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace cohort::kernels
