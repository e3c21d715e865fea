#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/cpu/thread_pool.h"
#include "kernels/finite_guard.h"

namespace cohort::kernels {
namespace {

// The flat gradient of ResNet-32 (470k) and of WRN-28-10 (36.5M).
void finite_guard_f32(benchmark::State& state) {
  ThreadPool pool;
  const std::vector<float> gradient(static_cast<std::size_t>(state.range(0)), 1.0F);
  const GradientBlock block{gradient.data(), state.range(0), 0};
  const float loss = 1.0F;
  const std::int32_t allowed = 1;
  std::int32_t mask = 0, block_mask = 0;
  for (auto _ : state) {
    finite_guard(CpuStream{&pool}, {.dtype = DType::f32,
                                    .members = 1,
                                    .blocks = {&block, 1},
                                    .loss = &loss,
                                    .allowed = &allowed,
                                    .mask = &mask,
                                    .block_mask = &block_mask});
  }
  state.SetBytesProcessed(state.iterations() * state.range(0) * 4);
}
BENCHMARK(finite_guard_f32)->Arg(472756)->Arg(36536884)->UseRealTime();

}  // namespace
}  // namespace cohort::kernels
