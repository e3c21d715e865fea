// What is formed from two networks' logits before their losses: a shared target from weights, the weights
// that fit the labels best, the decision of switched teaching. Bytes from the formulas of the headers (read
// once: the CPU keeps a row in its caches); simplex_fit computes: rows per second.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "kernels/cpu/thread_pool.h"
#include "kernels/simplex_fit.h"
#include "kernels/switch_rule.h"
#include "kernels/weighted_target.h"

namespace cohort::kernels {
namespace {

constexpr int kMembers = 2;

CpuStream stream() {
  static ThreadPool pool;
  return {&pool};
}

struct Logits {
  CohortLossShape shape;
  std::vector<std::vector<float>> logits;
  std::vector<std::int32_t> labels;
  std::vector<float> weights, target;
  std::vector<std::byte> scratch;

  explicit Logits(const benchmark::State& state)
      : shape{DType::f32, kMembers, state.range(0), state.range(1)},
        labels(static_cast<std::size_t>(shape.rows)),
        weights(static_cast<std::size_t>(shape.rows * kMembers), 0.5F),
        target(static_cast<std::size_t>(shape.rows * shape.classes)) {
    std::minstd_rand random(1);
    std::normal_distribution<float> normal(0, 2);
    for (int m = 0; m < kMembers; ++m) {
      logits.emplace_back(target.size());
      for (float& v : logits.back()) v = normal(random);
    }
    for (std::int32_t& y : labels)
      y = static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(shape.classes));
  }
};

void weighted(benchmark::State& state) {
  Logits l(state);
  l.scratch.resize(weighted_target_workspace(stream(), l.shape));
  const WeightedTargetArgs args{.shape = l.shape,
                                .logits = {l.logits[0].data(), l.logits[1].data()},
                                .weights = l.weights.data(),
                                .per_row = true,
                                .temperature = 2,
                                .target = l.target.data()};
  for (auto _ : state) {
    weighted_target(stream(), args, l.scratch);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * (kMembers + 1) *
                          static_cast<std::int64_t>(l.target.size() * sizeof(float)));
}
BENCHMARK(weighted)->Args({128, 100})->Args({128, 1000})->UseRealTime();

void fit(benchmark::State& state) {
  Logits l(state);
  l.scratch.resize(simplex_fit_workspace(stream(), l.shape));
  const SimplexFitArgs args{.shape = l.shape,
                            .logits = {l.logits[0].data(), l.logits[1].data()},
                            .labels = l.labels.data(),
                            .weights = l.weights.data()};
  for (auto _ : state) {
    simplex_fit(stream(), args, l.scratch);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * l.shape.rows);
}
BENCHMARK(fit)->Args({128, 100})->Args({128, 1000})->UseRealTime();

void switched(benchmark::State& state) {
  Logits l(state);
  l.scratch.resize(switch_rule_workspace(stream(), l.shape));
  std::vector<float> weights(kMembers + kMembers * kMembers);
  std::vector<std::int32_t> flags(2 * kMembers);
  const SwitchRuleArgs args{.shape = l.shape,
                            .logits = {l.logits[0].data(), l.logits[1].data()},
                            .labels = l.labels.data(),
                            .ce_weight = weights.data(),
                            .kl_weight = weights.data() + kMembers,
                            .step_mask = flags.data(),
                            .mode = flags.data() + kMembers};
  for (auto _ : state) {
    switch_rule(stream(), args, l.scratch);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * kMembers *
                          static_cast<std::int64_t>(l.target.size() * sizeof(float)));
}
BENCHMARK(switched)->Args({128, 100})->Args({128, 1000})->UseRealTime();

}  // namespace
}  // namespace cohort::kernels
