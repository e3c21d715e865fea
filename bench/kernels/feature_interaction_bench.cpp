// Attention of pixels (AFID) on the maps behind a stem and behind the last stage, batch 128: what it looks at
// and how it acts. Bytes from the formulas of the headers.
#include "bench/support/device_bench.h"
#include "kernels/channel_summary.h"
#include "kernels/pixel_gate.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

constexpr std::int64_t kSamples = bench::scaled(128);

struct Sizes {
  ChannelSummaryShape shape;

  explicit Sizes(const benchmark::State& state)
      : shape{kSamples, state.range(0) * state.range(0), state.range(1)} {}
  std::int64_t per_channel() const { return shape.samples * shape.channels; }
};

template <class T>
void summary(benchmark::State& state, Mode mode) {
  const Sizes s(state);
  const ChannelSummaryArgs sizes{.dtype = dtype_of<T>(), .shape = s.shape};
  bench::measure(state, mode, {.bytes = static_cast<double>(traffic(sizes).bytes)},
                 [&](auto, Memory& memory) {
                   ChannelSummaryArgs args = sizes;
                   args.x = memory.normals<T>(s.shape.num_x());
                   args.scores = memory.normals<T>(s.per_channel());
                   args.gate = memory.empty<float>(s.per_channel());
                   args.summary = memory.empty<T>(2 * s.shape.num_pixels());
                   args.argmax = memory.empty<std::int32_t>(s.shape.num_pixels());
                   return [args](auto on) { channel_summary(on, args); };
                 });
}

template <class T>
void summary_backward(benchmark::State& state, Mode mode) {
  const Sizes s(state);
  bench::measure(state, mode,
                 {.bytes = static_cast<double>(2 * bytes_of(dtype_of<T>(), s.shape.num_x()) +
                                               bytes_of(dtype_of<T>(), 2 * s.shape.num_pixels()) +
                                               4 * s.shape.num_pixels())},
                 [&](auto, Memory& memory) {
                   const ChannelSummaryBackwardArgs args{
                       .dtype = dtype_of<T>(),
                       .shape = s.shape,
                       .x = memory.normals<T>(s.shape.num_x()),
                       .gate = memory.filled<float>(s.per_channel(), 0.5),
                       .argmax = memory.integers<std::int32_t>(s.shape.num_pixels(), s.shape.channels),
                       .grad_summary = memory.normals<T>(2 * s.shape.num_pixels()),
                       .grad_x = memory.empty<T>(s.shape.num_x()),
                       .grad_scores = memory.empty<T>(s.per_channel())};
                   return [args](auto on) { channel_summary_backward(on, args); };
                 });
}

template <class T>
void gate(benchmark::State& state, Mode mode) {
  const Sizes s(state);
  const PixelGateArgs sizes{
      .dtype = dtype_of<T>(), .positions = s.shape.num_pixels(), .channels = s.shape.channels};
  bench::measure(state, mode, {.bytes = static_cast<double>(traffic(sizes).bytes)},
                 [&](auto, Memory& memory) {
                   PixelGateArgs args = sizes;
                   args.x = memory.normals<T>(s.shape.num_x());
                   args.scores = memory.normals<T>(s.shape.num_pixels());
                   args.y = memory.empty<T>(s.shape.num_x());
                   return [args](auto on) { pixel_gate(on, args); };
                 });
}

template <class T>
void gate_backward(benchmark::State& state, Mode mode) {
  const Sizes s(state);
  bench::measure(
      state, mode,
      {.bytes = static_cast<double>(bytes_of(dtype_of<T>(), 3 * s.shape.num_x() + 2 * s.shape.num_pixels()))},
      [&](auto, Memory& memory) {
        const PixelGateBackwardArgs args{.dtype = dtype_of<T>(),
                                         .positions = s.shape.num_pixels(),
                                         .channels = s.shape.channels,
                                         .x = memory.normals<T>(s.shape.num_x()),
                                         .scores = memory.normals<T>(s.shape.num_pixels()),
                                         .grad_y = memory.normals<T>(s.shape.num_x()),
                                         .grad_x = memory.empty<T>(s.shape.num_x()),
                                         .grad_scores = memory.empty<T>(s.shape.num_pixels())};
        return [args](auto on) { pixel_gate_backward(on, args); };
      });
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"side", "channels"})->Args({32, 16})->Args({8, 64})->Args({8, 256})->Args({7, 512});
}

[[maybe_unused]] const bool registered =
    bench::add("channel_summary/f32", &summary<float>, shapes) &&
    bench::add("channel_summary/bf16", &summary<bf16>, shapes) &&
    bench::add("channel_summary_backward/f32", &summary_backward<float>, shapes) &&
    bench::add("channel_summary_backward/bf16", &summary_backward<bf16>, shapes) &&
    bench::add("pixel_gate/f32", &gate<float>, shapes) &&
    bench::add("pixel_gate/bf16", &gate<bf16>, shapes) &&
    bench::add("pixel_gate_backward/f32", &gate_backward<float>, shapes) &&
    bench::add("pixel_gate_backward/bf16", &gate_backward<bf16>, shapes);

}  // namespace
}  // namespace cohort::kernels
