// The feature hint on the last stage of a CIFAR ResNet and of a wide one, batch 128. Bytes from
// kernels/feature_l2.h.
#include "kernels/feature_l2.h"

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

template <class T>
void l2(benchmark::State& state, Mode mode) {
  constexpr std::int64_t kSamples = bench::scaled(128), kPositions = 64;
  const std::int64_t row = kPositions * state.range(0);
  const std::int64_t elements = kSamples * row;
  bench::measure(state, mode, {.bytes = 3.0 * static_cast<double>(elements) * sizeof(T)},
                 [&](auto, Memory& memory) {
                   const FeatureL2Args args{.dtype = dtype_of<T>(),
                                            .rows = kSamples,
                                            .row_size = row,
                                            .student = memory.normals<T>(elements),
                                            .teacher = memory.normals<T>(elements, 0.9),
                                            .weight = memory.filled<float>(1, 1),
                                            .grad_student = memory.empty<T>(elements),
                                            .value = memory.empty<float>(1)};
                   const Workspace scratch = memory.workspace(feature_l2_workspace(elements));
                   return [=](auto stream) { feature_l2(stream, args, scratch); };
                 });
}

void channels(benchmark::internal::Benchmark* b) {
  b->ArgName("channels")->Arg(64)->Arg(640);
}

[[maybe_unused]] const bool registered =
    bench::add("feature_l2/f32", &l2<float>, channels) && bench::add("feature_l2/bf16", &l2<bf16>, channels);

}  // namespace
}  // namespace cohort::kernels
