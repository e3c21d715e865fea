// Feature terms on the last stage of a CIFAR ResNet (8x8x64) and a wide one (8x8x640), batch 128. Bytes from
// the formulas of kernels/feature_l2.h, pixel_cosine.h and attention_reweight.h.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "kernels/attention_reweight.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/feature_l2.h"
#include "kernels/pixel_cosine.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kSamples = 128;
constexpr std::int64_t kPositions = 64;

CpuStream stream() {
  static ThreadPool pool;
  return {&pool};
}

struct Maps {
  std::int64_t channels;
  std::vector<float> a, b, grad, map, pooled;

  explicit Maps(const benchmark::State& state)
      : channels(state.range(0)),
        a(static_cast<std::size_t>(kSamples * kPositions * channels)),
        b(a.size()),
        grad(a.size()),
        map(static_cast<std::size_t>(kSamples * kPositions), 1.0F),
        pooled(static_cast<std::size_t>(kSamples * channels)) {
    std::minstd_rand random(1);
    std::normal_distribution<float> normal;
    for (float& v : a) v = normal(random);
    for (float& v : b) v = normal(random);
  }

  template <class F>
  void run(benchmark::State& state, int maps_moved, F&& f) {
    for (auto _ : state) {
      f();
      benchmark::ClobberMemory();
    }
    state.SetBytesProcessed(state.iterations() * maps_moved *
                            static_cast<std::int64_t>(a.size() * sizeof(float)));
  }
};

void l2(benchmark::State& state) {
  Maps m(state);
  const float weight = 1;
  const std::int64_t row = kPositions * m.channels;
  std::vector<std::byte> scratch(feature_l2_workspace(kSamples * row));
  m.run(state, 3, [&] {
    feature_l2(stream(),
               {.rows = kSamples,
                .row_size = row,
                .student = m.a.data(),
                .teacher = m.b.data(),
                .weight = &weight,
                .grad_student = m.grad.data()},
               scratch);
  });
}

void cosine(benchmark::State& state) {
  Maps m(state);
  m.run(state, 2, [&] {
    pixel_cosine(stream(), {.positions = kSamples * kPositions,
                            .channels = m.channels,
                            .a = m.a.data(),
                            .b = m.b.data(),
                            .similarity = m.map.data()});
  });
}

void pool(benchmark::State& state) {
  Maps m(state);
  m.run(state, 1, [&] {
    attention_pool(stream(), {.samples = kSamples,
                              .positions = kPositions,
                              .channels = m.channels,
                              .features = m.a.data(),
                              .weights = m.map.data(),
                              .pooled = m.pooled.data()});
  });
}

void pool_backward(benchmark::State& state) {
  Maps m(state);
  m.run(state, 2, [&] {
    attention_pool_backward(stream(), {.samples = kSamples,
                                       .positions = kPositions,
                                       .channels = m.channels,
                                       .features = m.a.data(),
                                       .weights = m.map.data(),
                                       .grad_pooled = m.pooled.data(),
                                       .grad_features = m.grad.data()});
  });
}

BENCHMARK(l2)->Name("feature_l2")->Arg(64)->Arg(640);
BENCHMARK(cosine)->Name("pixel_cosine")->Arg(64)->Arg(640);
BENCHMARK(pool)->Name("attention_pool")->Arg(64)->Arg(640);
BENCHMARK(pool_backward)->Name("attention_pool_backward")->Arg(64)->Arg(640);

}  // namespace
}  // namespace cohort::kernels
