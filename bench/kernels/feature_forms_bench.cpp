// The variants of ADM's feature loss on the last stage of a CIFAR ResNet and of a wide one, batch 128:
// channels divided by their length (kernels/channel_normalise.h), and squares without their largest third
// (kernels/trimmed_l2.h). Bytes from those headers.
#include "bench/support/device_bench.h"
#include "kernels/channel_normalise.h"
#include "kernels/trimmed_l2.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

constexpr std::int64_t kSamples = bench::scaled(128), kPositions = 64;

template <class T>
void normalise(benchmark::State& state, Mode mode) {
  const std::int64_t channels = state.range(0), elements = kSamples * kPositions * channels;
  bench::measure(state, mode, {.bytes = 2.0 * static_cast<double>(elements) * sizeof(T)},
                 [&](auto stream, Memory& memory) {
                   const ChannelNormaliseArgs args{.dtype = dtype_of<T>(),
                                                   .samples = kSamples,
                                                   .positions = kPositions,
                                                   .channels = channels,
                                                   .x = memory.normals<T>(elements),
                                                   .y = memory.empty<T>(elements)};
                   const Workspace scratch =
                       memory.workspace(channel_normalise_workspace(stream, args.dtype, channels));
                   return [=](auto on) { channel_normalise(on, args, scratch); };
                 });
}

template <class T>
void normalise_backward(benchmark::State& state, Mode mode) {
  const std::int64_t channels = state.range(0), elements = kSamples * kPositions * channels;
  bench::measure(state, mode, {.bytes = 3.0 * static_cast<double>(elements) * sizeof(T)},
                 [&](auto stream, Memory& memory) {
                   const ChannelNormaliseBackwardArgs args{.dtype = dtype_of<T>(),
                                                           .samples = kSamples,
                                                           .positions = kPositions,
                                                           .channels = channels,
                                                           .x = memory.normals<T>(elements),
                                                           .grad_y = memory.normals<T>(elements),
                                                           .grad_x = memory.empty<T>(elements)};
                   const Workspace scratch =
                       memory.workspace(channel_normalise_workspace(stream, args.dtype, channels));
                   return [=](auto on) { channel_normalise_backward(on, args, scratch); };
                 });
}

template <class T, bool kPerRow>
void trimmed(benchmark::State& state, Mode mode) {
  const std::int64_t row = kPositions * state.range(0), elements = kSamples * row;
  bench::measure(state, mode, {.bytes = 3.0 * static_cast<double>(elements) * sizeof(T)},
                 [&](auto stream, Memory& memory) {
                   const TrimmedL2Args args{.shape = {dtype_of<T>(), kSamples, row, kPerRow},
                                            .student = memory.normals<T>(elements),
                                            .teacher = memory.normals<T>(elements, 0.9),
                                            .weight = memory.filled<float>(1, 1),
                                            .grad_student = memory.empty<T>(elements),
                                            .value = memory.empty<float>(1)};
                   const Workspace scratch = memory.workspace(trimmed_l2_workspace(stream, args.shape));
                   return [=](auto on) { trimmed_l2(on, args, scratch); };
                 });
}

void channels(benchmark::internal::Benchmark* b) {
  b->ArgName("channels")->Arg(64)->Arg(640);
}

[[maybe_unused]] const bool registered =
    bench::add("channel_normalise/f32", &normalise<float>, channels) &&
    bench::add("channel_normalise/bf16", &normalise<bf16>, channels) &&
    bench::add("channel_normalise_backward/f32", &normalise_backward<float>, channels) &&
    bench::add("trimmed_l2/f32", &trimmed<float, false>, channels) &&
    bench::add("trimmed_l2/bf16", &trimmed<bf16, false>, channels) &&
    bench::add("trimmed_l2_per_row/f32", &trimmed<float, true>, channels);

}  // namespace
}  // namespace cohort::kernels
