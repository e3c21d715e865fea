// What methods whose networks are branches of one do with their logits: the gated ensemble of ONE, the peers'
// mean of CLNN; and weights that follow the epoch. Three branches, batch 128, CIFAR-100 and ImageNet. Bytes
// from the formulas of the headers.
#include "bench/support/device_bench.h"
#include "kernels/epoch_weights.h"
#include "kernels/gated_ensemble.h"
#include "kernels/peer_loss.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

constexpr int kMembers = 3;

struct Batch {
  CohortLossShape shape;
  double logits;  // bytes of one branch's

  explicit Batch(const benchmark::State& state)
      : shape{DType::f32, kMembers, bench::scaled(state.range(0)), state.range(1)},
        logits(4.0 * static_cast<double>(shape.rows * shape.classes)) {}
  std::int64_t count() const { return shape.rows * shape.classes; }
};

void gated(benchmark::State& state, Mode mode) {
  const Batch b(state);
  bench::measure(state, mode, {.bytes = (2 * kMembers + 1) * b.logits}, [&](auto stream, Memory& memory) {
    GatedEnsembleArgs args{.shape = b.shape, .temperature = 3};
    for (std::size_t m = 0; m < kMembers; ++m) {
      args.logits[m] = memory.normals<float>(b.count(), 2);
      args.grad_logits[m] = memory.empty<float>(b.count());
    }
    args.scores = memory.normals<float>(b.shape.rows * kMembers, 1);
    args.labels = memory.integers<std::int32_t>(b.shape.rows, b.shape.classes);
    args.target = memory.empty<float>(b.count());
    args.grad_scores = memory.empty<float>(b.shape.rows * kMembers);
    const Workspace workspace = memory.workspace(gated_ensemble_workspace(stream, b.shape));
    return [args, workspace](auto on) { gated_ensemble(on, args, workspace); };
  });
}

void peers(benchmark::State& state, Mode mode) {
  const Batch b(state);
  bench::measure(state, mode, {.bytes = 2 * kMembers * b.logits}, [&](auto stream, Memory& memory) {
    PeerLossArgs args{.shape = b.shape, .temperature = 2};
    for (std::size_t m = 0; m < kMembers; ++m) {
      args.logits[m] = memory.normals<float>(b.count(), 2);
      args.grad_logits[m] = memory.empty<float>(b.count());
    }
    args.weight = memory.filled<float>(kMembers, 0.5);
    const Workspace workspace = memory.workspace(peer_loss_workspace(stream, b.shape));
    return [args, workspace](auto on) { peer_loss(on, args, workspace); };
  });
}

void by_epoch(benchmark::State& state, Mode mode) {
  bench::measure(state, mode, {.bytes = 4.0 * (2 * kMembers + 1)}, [&](auto, Memory& memory) {
    const EpochWeightsArgs args{.count = kMembers,
                                .entries = 81,
                                .base = memory.filled<float>(kMembers, 1),
                                .table = memory.filled<float>(81, 0.5),
                                .epoch = memory.filled<std::int32_t>(1, 40),
                                .out = memory.empty<float>(kMembers)};
    return [args](auto on) { epoch_weights(on, args); };
  });
}

const auto kSizes = [](auto* b) { b->ArgNames({"rows", "classes"})->Args({128, 100})->Args({128, 1000}); };

[[maybe_unused]] const bool registered =
    bench::add("gated_ensemble", &gated, kSizes) && bench::add("peer_loss", &peers, kSizes) &&
    bench::add("epoch_weights", &by_epoch, [](auto* b) { b->ArgNames({"rows"})->Args({128}); });

}  // namespace
}  // namespace cohort::kernels
