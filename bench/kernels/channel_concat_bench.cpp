// The end of a ShuffleNetV2 block (concatenation and shuffle of two halves) and of a ShuffleNetV1 block with
// stride (concatenation), at the first stage and batch 128. Bytes from kernels/channel_concat.h.
#include "kernels/channel_concat.h"

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

constexpr std::int64_t kRows = bench::scaled(128) * 16 * 16;

template <class T, bool kBackward>
void channel_concat(benchmark::State& state, Mode mode) {
  const bool shuffled = state.range(0) == 2;
  const std::int64_t first = shuffled ? 58 : 216, second = shuffled ? 58 : 24;
  const std::int64_t channels = first + second;
  const double bytes = 2.0 * static_cast<double>(kRows * channels) * sizeof(T);
  bench::measure(state, mode, {.bytes = bytes}, [&](auto, Memory& memory) {
    T* const a = memory.normals<T>(kRows * first);
    T* const b = memory.normals<T>(kRows * second);
    T* const y = memory.normals<T>(kRows * channels);
    const ChannelConcatForwardArgs forward{.dtype = dtype_of<T>(),
                                           .rows = kRows,
                                           .groups = state.range(0),
                                           .part_a = {first, 0, first},
                                           .part_b = {second, 0, second},
                                           .a = a,
                                           .b = b,
                                           .y = y};
    const ChannelConcatBackwardArgs backward_a{.dtype = dtype_of<T>(),
                                               .rows = kRows,
                                               .groups = state.range(0),
                                               .channels = channels,
                                               .part = forward.part_a,
                                               .grad_y = y,
                                               .grad_part = a};
    ChannelConcatBackwardArgs backward_b = backward_a;
    backward_b.part = forward.part_b;
    backward_b.offset = first;
    backward_b.grad_part = b;
    return [=](auto on) {
      if constexpr (kBackward) {
        channel_concat_backward(on, backward_a);
        channel_concat_backward(on, backward_b);
      } else {
        channel_concat_forward(on, forward);
      }
    };
  });
}

void groups(benchmark::internal::Benchmark* b) {
  b->ArgName("groups")->Arg(1)->Arg(2);
}

[[maybe_unused]] const bool registered =
    bench::add("channel_concat/f32", &channel_concat<float, false>, groups) &&
    bench::add("channel_concat/bf16", &channel_concat<bf16, false>, groups) &&
    bench::add("channel_concat_backward/f32", &channel_concat<float, true>, groups) &&
    bench::add("channel_concat_backward/bf16", &channel_concat<bf16, true>, groups);

}  // namespace
}  // namespace cohort::kernels
