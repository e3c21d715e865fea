// What methods do with the logits of two networks beside the common loss: a shared target from weights, the
// weights that fit the labels best, the decision of switched teaching, decoupled distillation,
// standardisation, DisWOT's distances. Batch 128, CIFAR-100 and ImageNet. Bytes from the formulas of the
// headers, logits counted once; simplex_fit computes more than it reads.
#include "bench/support/device_bench.h"
#include "kernels/dkd_loss.h"
#include "kernels/logit_standardise.h"
#include "kernels/relation_loss.h"
#include "kernels/semantic_loss.h"
#include "kernels/simplex_fit.h"
#include "kernels/softmax_residual.h"
#include "kernels/switch_rule.h"
#include "kernels/weighted_target.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

constexpr int kMembers = 2;

struct Batch {
  CohortLossShape shape;
  double logits;  // bytes of one network's

  explicit Batch(const benchmark::State& state)
      : shape{DType::f32, kMembers, bench::scaled(state.range(0)), state.range(1)},
        logits(4.0 * static_cast<double>(shape.rows * shape.classes)) {}
  std::int64_t count() const { return shape.rows * shape.classes; }
};

void weighted(benchmark::State& state, Mode mode) {
  const Batch b(state);
  bench::measure(state, mode, {.bytes = 3 * b.logits}, [&](auto stream, Memory& memory) {
    WeightedTargetArgs args{.shape = b.shape, .per_row = true, .temperature = 2};
    for (std::size_t m = 0; m < kMembers; ++m) args.logits[m] = memory.normals<float>(b.count(), 2);
    args.weights = memory.filled<float>(b.shape.rows * kMembers, 0.5);
    args.target = memory.empty<float>(b.count());
    const Workspace workspace = memory.workspace(weighted_target_workspace(stream, b.shape));
    return [args, workspace](auto on) { weighted_target(on, args, workspace); };
  });
}

void fit(benchmark::State& state, Mode mode) {
  const Batch b(state);
  bench::measure(state, mode, {.bytes = 2 * b.logits}, [&](auto stream, Memory& memory) {
    SimplexFitArgs args{.shape = b.shape};
    for (std::size_t m = 0; m < kMembers; ++m) args.logits[m] = memory.normals<float>(b.count(), 2);
    args.labels = memory.integers<std::int32_t>(b.shape.rows, b.shape.classes);
    args.weights = memory.empty<float>(b.shape.rows * kMembers);
    const Workspace workspace = memory.workspace(simplex_fit_workspace(stream, b.shape));
    return [args, workspace](auto on) { simplex_fit(on, args, workspace); };
  });
}

void switched(benchmark::State& state, Mode mode) {
  const Batch b(state);
  bench::measure(state, mode, {.bytes = 2 * b.logits}, [&](auto stream, Memory& memory) {
    SwitchRuleArgs args{.shape = b.shape};
    for (std::size_t m = 0; m < kMembers; ++m) args.logits[m] = memory.normals<float>(b.count(), 2);
    args.labels = memory.integers<std::int32_t>(b.shape.rows, b.shape.classes);
    args.ce_weight = memory.empty<float>(kMembers);
    args.kl_weight = memory.empty<float>(kMembers * kMembers);
    args.step_mask = memory.empty<std::int32_t>(kMembers);
    args.mode = memory.empty<std::int32_t>(kMembers);
    const Workspace workspace = memory.workspace(switch_rule_workspace(stream, b.shape));
    return [args, workspace](auto on) { switch_rule(on, args, workspace); };
  });
}

void decoupled(benchmark::State& state, Mode mode) {
  const Batch b(state);
  bench::measure(state, mode, {.bytes = 3 * b.logits}, [&](auto stream, Memory& memory) {
    const DkdLossArgs args{.rows = b.shape.rows,
                           .classes = b.shape.classes,
                           .student = memory.normals<float>(b.count(), 2),
                           .teacher = memory.normals<float>(b.count(), 2),
                           .labels = memory.integers<std::int32_t>(b.shape.rows, b.shape.classes),
                           .grad_student = memory.empty<float>(b.count()),
                           .tckd = memory.empty<float>(1)};
    const Workspace workspace = memory.workspace(dkd_loss_workspace(stream, b.shape.rows));
    return [args, workspace](auto on) { dkd_loss(on, args, workspace); };
  });
}

void standardised(benchmark::State& state, Mode mode) {
  const Batch b(state);
  bench::measure(state, mode, {.bytes = 2 * b.logits}, [&](auto, Memory& memory) {
    const LogitStandardiseArgs args{.rows = b.shape.rows,
                                    .classes = b.shape.classes,
                                    .factor = 2.5,
                                    .logits = memory.normals<float>(b.count(), 2),
                                    .standardised = memory.empty<float>(b.count())};
    return [args](auto stream) { logit_standardise(stream, args); };
  });
}

void standardised_backward(benchmark::State& state, Mode mode) {
  const Batch b(state);
  bench::measure(state, mode, {.bytes = 3 * b.logits}, [&](auto, Memory& memory) {
    const LogitStandardiseBackwardArgs args{.rows = b.shape.rows,
                                            .classes = b.shape.classes,
                                            .factor = 2.5,
                                            .logits = memory.normals<float>(b.count(), 2),
                                            .grad_standardised = memory.normals<float>(b.count()),
                                            .grad_logits = memory.empty<float>(b.count())};
    return [args](auto stream) { logit_standardise_backward(stream, args); };
  });
}

// Relations of a batch's samples; semantics of its classes over 256 channels.
void relations(benchmark::State& state, Mode mode) {
  const Batch b(state);
  const std::int64_t rows = b.shape.rows;
  bench::measure(state, mode, {.bytes = 12.0 * static_cast<double>(rows * rows)},
                 [&](auto stream, Memory& memory) {
                   const RelationLossArgs args{.rows = rows,
                                               .student = memory.normals<float>(rows * rows),
                                               .teacher = memory.normals<float>(rows * rows),
                                               .weight = memory.filled<float>(1, 1),
                                               .grad_student = memory.empty<float>(rows * rows),
                                               .value = memory.empty<float>(1)};
                   const Workspace workspace = memory.workspace(relation_loss_workspace(stream, rows));
                   return [args, workspace](auto on) { relation_loss(on, args, workspace); };
                 });
}

void semantics(benchmark::State& state, Mode mode) {
  const Batch b(state);
  const std::int64_t classes = b.shape.classes, channels = 256, count = classes * channels;
  bench::measure(state, mode, {.bytes = 12.0 * static_cast<double>(count)}, [&](auto stream, Memory& memory) {
    const SemanticLossArgs args{.classes = classes,
                                .channels = channels,
                                .student = memory.normals<float>(count),
                                .teacher = memory.normals<float>(count),
                                .weight = memory.filled<float>(1, 1),
                                .grad_student = memory.empty<float>(count),
                                .value = memory.empty<float>(1)};
    const Workspace workspace = memory.workspace(semantic_loss_workspace(stream, classes));
    return [args, workspace](auto on) { semantic_loss(on, args, workspace); };
  });
}

void residual(benchmark::State& state, Mode mode) {
  const Batch b(state);
  bench::measure(state, mode, {.bytes = 2 * b.logits}, [&](auto, Memory& memory) {
    const SoftmaxResidualArgs args{.rows = b.shape.rows,
                                   .classes = b.shape.classes,
                                   .logits = memory.normals<float>(b.count(), 2),
                                   .labels = memory.integers<std::int32_t>(b.shape.rows, b.shape.classes),
                                   .residual = memory.empty<float>(b.count())};
    return [args](auto stream) { softmax_residual(stream, args); };
  });
}

void residual_backward(benchmark::State& state, Mode mode) {
  const Batch b(state);
  bench::measure(state, mode, {.bytes = 3 * b.logits}, [&](auto, Memory& memory) {
    const SoftmaxResidualBackwardArgs args{.rows = b.shape.rows,
                                           .classes = b.shape.classes,
                                           .logits = memory.normals<float>(b.count(), 2),
                                           .grad_residual = memory.normals<float>(b.count()),
                                           .grad_logits = memory.empty<float>(b.count())};
    return [args](auto stream) { softmax_residual_backward(stream, args); };
  });
}

const auto kSizes = [](auto* b) { b->ArgNames({"rows", "classes"})->Args({128, 100})->Args({128, 1000}); };

[[maybe_unused]] const bool registered =
    bench::add("weighted_target", &weighted, kSizes) && bench::add("simplex_fit", &fit, kSizes) &&
    bench::add("switch_rule", &switched, kSizes) && bench::add("dkd_loss", &decoupled, kSizes) &&
    bench::add("logit_standardise", &standardised, kSizes) &&
    bench::add("logit_standardise_backward", &standardised_backward, kSizes) &&
    bench::add("relation_loss", &relations, kSizes) && bench::add("semantic_loss", &semantics, kSizes) &&
    bench::add("softmax_residual", &residual, kSizes) &&
    bench::add("softmax_residual_backward", &residual_backward, kSizes);

}  // namespace
}  // namespace cohort::kernels
