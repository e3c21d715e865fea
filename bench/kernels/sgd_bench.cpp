// One optimiser step of a cohort: two ResNet-32 (466,906 parameters each). Bytes from kernels/sgd.h.
#include "kernels/sgd.h"

#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/cpu/thread_pool.h"

namespace cohort::kernels {
namespace {

void sgd_step(benchmark::State& state) {
  static ThreadPool pool;
  constexpr std::size_t kCount = 466'906;
  const bool shadow = state.range(0) != 0;
  std::vector<float> p(2 * kCount, 1.0F), g(2 * kCount, 0.01F), v(2 * kCount, 0.0F);
  std::vector<bf16> s(2 * kCount);
  std::vector<SgdMember> members;
  for (std::size_t k = 0; k < 2; ++k) {
    const std::size_t at = k * kCount;
    members.push_back(
        {p.data() + at, g.data() + at, v.data() + at, shadow ? s.data() + at : nullptr, kCount, -1, 5e-4});
  }
  const float rates[] = {1e-4F, 1e-4F};
  for (auto _ : state) {
    sgd(CpuStream{&pool}, {.members = members, .learning_rate = rates, .nesterov = true});
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(2 * kCount) * (shadow ? 22 : 20));
}
BENCHMARK(sgd_step)->ArgName("shadow")->Arg(0)->Arg(1)->UseRealTime();

}  // namespace
}  // namespace cohort::kernels
