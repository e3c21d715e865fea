// Every perturbation on a batch of 128 CIFAR images. Bytes from kernels/perturb.h.
#include "kernels/perturb.h"

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

template <class T>
void perturb_batch(benchmark::State& state, Mode mode) {
  constexpr std::int64_t kBatch = bench::scaled(128), kPixels = 3072;
  state.SetLabel(kPerturbInfos[state.range(0) - 1].name);
  bench::measure(state, mode, {.bytes = 2.0 * kBatch * kPixels * sizeof(T)},
                 [&](auto stream_of, Memory& memory) {
                   void* const batch = memory.empty<T>(kBatch * kPixels);
                   const void* const source = memory.normals<T>(kBatch * kPixels, 0.1);
                   PerturbArgs args{.labels = memory.filled<std::int32_t>(kBatch, 1),
                                    .step = memory.filled<std::int32_t>(1, 0),
                                    .member = memory.empty<std::int32_t>(1),
                                    .operation = memory.empty<std::int32_t>(1),
                                    .mixed_labels = memory.empty<std::int32_t>(4 * kBatch),
                                    .label_weights = memory.empty<Accumulator<T>>(4 * kBatch),
                                    .permutations = memory.empty<std::int32_t>(3 * kBatch),
                                    .batch_size = kBatch,
                                    .height = 32,
                                    .width = 32,
                                    .dtype = dtype_of<T>()};
                   args.options.pool[0] = static_cast<PerturbOp>(state.range(0));
                   args.options.pool_size = 1;
                   args.batches = {&batch, 1};
                   args.sources = {&source, 1};
                   const Workspace scratch = memory.workspace(perturb_workspace(stream_of, args));
                   return [=](auto stream) {
                     PerturbArgs a = args;
                     a.batches = {&batch, 1};
                     a.sources = {&source, 1};
                     perturb(stream, a, scratch);
                   };
                 });
}

void operations(benchmark::internal::Benchmark* b) {
  b->ArgName("operation")->DenseRange(1, kNumPerturbOps);
}

[[maybe_unused]] const bool registered = bench::add("perturb/f32", &perturb_batch<float>, operations) &&
                                         bench::add("perturb/bf16", &perturb_batch<bf16>, operations);

}  // namespace
}  // namespace cohort::kernels
