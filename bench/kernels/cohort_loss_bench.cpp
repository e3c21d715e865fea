// The fused cohort loss, mutual learning at T = 1 and T = 3 and with the min-logit target, beside a memcpy of
// the same logits. Bytes from the formula of kernels/cohort_loss.h; "logits/s" counts every member's.
#include "kernels/cohort_loss.h"

#include <benchmark/benchmark.h>

#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/thread_pool.h"

namespace cohort::kernels {
namespace {

CpuStream stream() {
  static ThreadPool pool;
  return {&pool};
}

struct Cohort {
  std::int64_t rows, classes;
  int members;
  std::vector<std::vector<float>> logits, grad;
  std::vector<std::int32_t> labels;
  std::vector<float> kl_weight, target_weight, loss, ce_rows;
  std::vector<std::byte> scratch;

  explicit Cohort(const benchmark::State& state)
      : rows(state.range(0)),
        classes(state.range(1)),
        members(static_cast<int>(state.range(2))),
        labels(static_cast<std::size_t>(rows)),
        kl_weight(static_cast<std::size_t>(members * members), 1.0F),
        target_weight(static_cast<std::size_t>(members), 1.0F),
        loss(static_cast<std::size_t>(members)),
        ce_rows(static_cast<std::size_t>(members * rows)) {
    std::minstd_rand random(1);
    std::normal_distribution<float> normal(0, 2);
    for (int m = 0; m < members; ++m) {
      logits.emplace_back(static_cast<std::size_t>(rows * classes));
      for (float& z : logits.back()) z = normal(random);
      grad.emplace_back(logits.back().size());
    }
    for (std::int32_t& label : labels) label = static_cast<std::int32_t>(random() % classes);
  }

  double elements() const { return static_cast<double>(rows * classes * members); }

  CohortLossArgs args() {
    CohortLossArgs a{.shape = {DType::f32, members, rows, classes}};
    for (int m = 0; m < members; ++m) {
      a.logits[m] = logits[static_cast<std::size_t>(m)].data();
      a.grad_logits[m] = grad[static_cast<std::size_t>(m)].data();
    }
    a.labels = labels.data();
    a.loss = loss.data();
    a.ce_rows = ce_rows.data();
    scratch.resize(cohort_loss_workspace(stream(), a.shape));
    return a;
  }

  void run(benchmark::State& state, const CohortLossArgs& a, double bytes_per_element) {
    for (auto _ : state) {
      cohort_loss(stream(), a, scratch);
      benchmark::ClobberMemory();
    }
    const auto n = static_cast<double>(state.iterations());
    state.counters["logits/s"] = benchmark::Counter(n * elements(), benchmark::Counter::kIsRate);
    state.SetBytesProcessed(static_cast<std::int64_t>(n * elements() * bytes_per_element));
  }
};

void independent(benchmark::State& state) {
  Cohort c(state);
  c.run(state, c.args(), 8);
}

void values_only(benchmark::State& state) {
  Cohort c(state);
  CohortLossArgs a = c.args();
  a.grad_logits = {};
  c.run(state, a, 4);
}

void mutual(benchmark::State& state) {
  Cohort c(state);
  CohortLossArgs a = c.args();
  a.kl_weight = c.kl_weight.data();
  c.run(state, a, 8);
}

void mutual_t3(benchmark::State& state) {
  Cohort c(state);
  CohortLossArgs a = c.args();
  a.kl_weight = c.kl_weight.data();
  a.temperature = 3;
  c.run(state, a, 8);
}

void min_logit_t2(benchmark::State& state) {
  Cohort c(state);
  CohortLossArgs a = c.args();
  a.target_rule = TargetRule::kMinLogit;
  a.target_weight = c.target_weight.data();
  a.temperature = 2;
  c.run(state, a, 8);
}

void copy(benchmark::State& state) {
  Cohort c(state);
  for (auto _ : state) {
    for (std::size_t m = 0; m < c.logits.size(); ++m) {
      std::memcpy(c.grad[m].data(), c.logits[m].data(), c.logits[m].size() * sizeof(float));
    }
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(
      static_cast<std::int64_t>(static_cast<double>(state.iterations()) * c.elements() * 8));
}

void shapes(benchmark::internal::Benchmark* b) {
  for (const int rows : {128, 1024}) {
    for (const int classes : {100, 1000}) {
      for (const int members : {2, 4}) b->Args({rows, classes, members});
    }
  }
}

BENCHMARK(independent)->Name("cohort_loss/independent")->Apply(shapes);
BENCHMARK(values_only)->Name("cohort_loss/values_only")->Apply(shapes);
BENCHMARK(mutual)->Name("cohort_loss/mutual")->Apply(shapes);
BENCHMARK(mutual_t3)->Name("cohort_loss/mutual_T3")->Apply(shapes);
BENCHMARK(min_logit_t2)->Name("cohort_loss/min_logit_T2")->Apply(shapes);
BENCHMARK(copy)->Name("cohort_loss/memcpy")->Apply(shapes);

}  // namespace
}  // namespace cohort::kernels
