// A batch of 128 CIFAR images from bytes to normalised floats, for one and for two networks, and each
// perturbation on it. Bytes from kernels/augment.h and kernels/perturb.h.
#include "kernels/augment.h"

#include <benchmark/benchmark.h>

#include <cstddef>
#include <vector>

#include "kernels/cpu/thread_pool.h"
#include "kernels/perturb.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kBatch = 128, kImages = 4096, kPixels = 3072;

CpuStream stream() {
  static ThreadPool pool;
  return {&pool};
}

void augment_batch(benchmark::State& state) {
  const auto members = static_cast<std::size_t>(state.range(0));
  std::vector<std::uint8_t> images(kImages * kPixels, 100);
  std::vector<std::int32_t> indices;
  for (std::int32_t i = 0; i < kBatch; ++i) indices.push_back(i * 31 % static_cast<std::int32_t>(kImages));
  std::vector<std::vector<float>> batches(members, std::vector<float>(kBatch * kPixels));
  std::vector<void*> pointers;
  for (auto& batch : batches) pointers.push_back(batch.data());
  for (auto _ : state) {
    augment(stream(), {.images = images.data(),
                       .indices = indices.data(),
                       .batches = pointers,
                       .batch_size = kBatch,
                       .height = 32,
                       .width = 32,
                       .independent = true});
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(members) * kBatch * kPixels * 5);
}
BENCHMARK(augment_batch)->ArgName("members")->Arg(1)->Arg(2)->UseRealTime();

void perturb_batch(benchmark::State& state) {
  std::vector<float> batch(kBatch * kPixels, 0.1F);
  std::vector<std::int32_t> labels(kBatch, 1), mixed(4 * kBatch), permutations(3 * kBatch);
  std::vector<float> weights(4 * kBatch);
  std::int32_t step = 0, member = 0, operation = 0;
  void* const pointers[] = {batch.data()};
  PerturbArgs args{.batches = pointers,
                   .labels = labels.data(),
                   .step = &step,
                   .member = &member,
                   .operation = &operation,
                   .mixed_labels = mixed.data(),
                   .label_weights = weights.data(),
                   .permutations = permutations.data(),
                   .batch_size = kBatch,
                   .height = 32,
                   .width = 32};
  args.options.pool[0] = static_cast<PerturbOp>(state.range(0));
  args.options.pool_size = 1;
  std::vector<std::byte> workspace(perturb_workspace(args));
  for (auto _ : state) {
    perturb_plan(stream(), args, workspace);
    perturb(stream(), args, workspace);
    benchmark::ClobberMemory();
  }
  state.SetLabel(kPerturbInfos[state.range(0) - 1].name);
  state.SetBytesProcessed(state.iterations() * 3 * kBatch * kPixels * 4);
}
BENCHMARK(perturb_batch)->DenseRange(1, kNumPerturbOps)->UseRealTime();

}  // namespace
}  // namespace cohort::kernels
