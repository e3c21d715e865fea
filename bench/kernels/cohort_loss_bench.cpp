// The fused cohort loss: mutual learning at T = 1 and T = 3, the min-logit target, and competitive training
// in one launch and in three. Bytes from the formula of kernels/cohort_loss.h: logits read, gradients
// written.
#include "kernels/cohort_loss.h"

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

struct Sizes {
  std::int64_t rows, classes;
  int members;

  explicit Sizes(const benchmark::State& state)
      : rows(bench::scaled(state.range(0))),
        classes(state.range(1)),
        members(static_cast<int>(state.range(2))) {}
  double elements() const { return static_cast<double>(rows * classes) * members; }

  // In a graph a small launch costs its latency; a large one should reach most of 3 TB/s.
  double target_us(double bytes) const {
    if (rows == 128 && classes <= 1000) return classes <= 100 ? 4 : 6;
    if (rows < 8192) return 0;
    return bytes / ((classes >= 1000 ? 0.88 : 0.80) * 3e12) * 1e6;
  }
};

template <class T, class Stream>
struct Cohort {
  CohortLossArgs args;
  Workspace scratch;

  Cohort(Stream stream, Memory& memory, const Sizes& s, bool gradients)
      : args{.shape = {dtype_of<T>(), s.members, s.rows, s.classes}} {
    for (std::size_t m = 0; m < static_cast<std::size_t>(s.members); ++m) {
      args.logits[m] = memory.normals<T>(s.rows * s.classes, 2);
      if (gradients) args.grad_logits[m] = memory.empty<T>(s.rows * s.classes);
    }
    args.labels = memory.integers<std::int32_t>(s.rows, s.classes);
    args.loss = memory.empty<float>(s.members);
    args.ce = memory.empty<float>(s.members);
    args.ce_rows = memory.empty<float>(s.members * s.rows);
    scratch = memory.workspace(cohort_loss_workspace(stream, args.shape));
  }
};

enum class Kind { kIndependent, kValues, kMutual, kMutualT3, kMinLogit };

template <class T, Kind kKind>
void loss(benchmark::State& state, Mode mode) {
  const Sizes s(state);
  constexpr bool kGradients = kKind != Kind::kValues;
  const double bytes = s.elements() * sizeof(T) * (kGradients ? 2 : 1);
  bench::measure(state, mode, {.bytes = bytes, .target_us = s.target_us(bytes)},
                 [&]<class Stream>(Stream stream, Memory& memory) {
                   Cohort<T, Stream> c(stream, memory, s, kGradients);
                   if (kKind == Kind::kMutual || kKind == Kind::kMutualT3) {
                     c.args.kl_weight = memory.filled<float>(s.members * s.members, 1);
                   }
                   if (kKind == Kind::kMutualT3) c.args.temperature = 3;
                   if (kKind == Kind::kMinLogit) {
                     c.args.target_rule = TargetRule::kMinLogit;
                     c.args.target_weight = memory.filled<float>(s.members, 1);
                     c.args.temperature = 2;
                   }
                   return [c](auto on) { cohort_loss(on, c.args, c.scratch); };
                 });
}

// The batch chooses the teacher within the call: the formula's bytes. In steps (what the call does itself
// where the batch does not fit): the logits are read twice.
template <class T, bool kInSteps>
void competitive(benchmark::State& state, Mode mode) {
  const Sizes s(state);
  const double bytes = s.elements() * sizeof(T) * (kInSteps ? 3 : 2);
  bench::measure(state, mode, {.bytes = bytes, .target_us = s.target_us(bytes)},
                 [&]<class Stream>(Stream stream, Memory& memory) {
                   Cohort<T, Stream> c(stream, memory, s, true);
                   c.args.decision.teacher = memory.empty<std::int32_t>(1);
                   c.args.decision.kl_weight = memory.empty<float>(s.members * s.members);
                   return [c](auto on) {
                     if (kInSteps) return cohort_loss_in_steps(on, c.args, c.scratch);
                     cohort_loss(on, c.args, c.scratch);
                   };
                 });
}

void some_shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "classes", "members"});
  for (const int rows : {128, 1024}) {
    for (const int classes : {100, 1000}) {
      for (const int members : {2, 4}) b->Args({rows, classes, members});
    }
  }
}

void all_shapes(benchmark::internal::Benchmark* b) {
  some_shapes(b);
  for (const int rows : {128, 1024}) {
    for (const int classes : {100, 1000}) b->Args({rows, classes, 3});
    for (const int members : {2, 3, 4}) b->Args({rows, 21841, members});
  }
  b->Args({8192, 1000, 2})->Args({65536, 100, 2})->Args({65536, 1000, 2});
}

[[maybe_unused]] const bool registered =
    bench::add("cohort_loss/independent", &loss<float, Kind::kIndependent>, some_shapes) &&
    bench::add("cohort_loss/values_only", &loss<float, Kind::kValues>, some_shapes) &&
    bench::add("cohort_loss/mutual", &loss<float, Kind::kMutual>, all_shapes) &&
    bench::add("cohort_loss/mutual_bf16", &loss<bf16, Kind::kMutual>, some_shapes) &&
    bench::add("cohort_loss/mutual_T3", &loss<float, Kind::kMutualT3>, some_shapes) &&
    bench::add("cohort_loss/min_logit_T2", &loss<float, Kind::kMinLogit>, some_shapes) &&
    bench::add("cohort_loss/competitive", &competitive<float, false>, some_shapes) &&
    bench::add("cohort_loss/competitive_bf16", &competitive<bf16, false>, some_shapes) &&
    bench::add("cohort_loss/competitive_in_steps", &competitive<float, true>, some_shapes);

}  // namespace
}  // namespace cohort::kernels
