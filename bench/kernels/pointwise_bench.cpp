// Elementwise kernels on one activation of a CIFAR ResNet's first stage at batch 128. Bytes from
// kernels/pointwise.h.
#include "kernels/pointwise.h"

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

constexpr std::int64_t kBatch = bench::scaled(128);
constexpr std::int64_t kCount = kBatch * 32 * 32 * 16;

double bytes_of(int arrays, std::size_t element) {
  return static_cast<double>(kCount) * arrays * static_cast<double>(element);
}

template <class T>
void relu_forward(benchmark::State& state, Mode mode) {
  bench::measure(state, mode, {.bytes = bytes_of(2, sizeof(T))}, [](auto, Memory& memory) {
    const ActivationForwardArgs args{.dtype = dtype_of<T>(),
                                     .count = kCount,
                                     .x = memory.normals<T>(kCount),
                                     .y = memory.empty<T>(kCount)};
    return [args](auto stream) { kernels::relu_forward(stream, args); };
  });
}

template <class T>
void relu_backward(benchmark::State& state, Mode mode) {
  bench::measure(state, mode, {.bytes = bytes_of(3, sizeof(T))}, [](auto, Memory& memory) {
    const ActivationBackwardArgs args{.dtype = dtype_of<T>(),
                                      .count = kCount,
                                      .y = memory.normals<T>(kCount),
                                      .grad_y = memory.normals<T>(kCount),
                                      .grad_x = memory.empty<T>(kCount)};
    return [args](auto stream) { kernels::relu_backward(stream, args); };
  });
}

template <class T>
void sigmoid_forward(benchmark::State& state, Mode mode) {
  bench::measure(state, mode, {.bytes = bytes_of(2, sizeof(T))}, [](auto, Memory& memory) {
    const ActivationForwardArgs args{.dtype = dtype_of<T>(),
                                     .count = kCount,
                                     .x = memory.normals<T>(kCount),
                                     .y = memory.empty<T>(kCount)};
    return [args](auto stream) { kernels::sigmoid_forward(stream, args); };
  });
}

template <class T>
void leaky_relu_forward(benchmark::State& state, Mode mode) {
  bench::measure(state, mode, {.bytes = bytes_of(2, sizeof(T))}, [](auto, Memory& memory) {
    const LeakyReluForwardArgs args{.dtype = dtype_of<T>(),
                                    .count = kCount,
                                    .x = memory.normals<T>(kCount),
                                    .y = memory.empty<T>(kCount)};
    return [args](auto stream) { kernels::leaky_relu_forward(stream, args); };
  });
}

template <class T>
void add(benchmark::State& state, Mode mode) {
  bench::measure(state, mode, {.bytes = bytes_of(3, sizeof(T))}, [](auto, Memory& memory) {
    const AddArgs args{.dtype = dtype_of<T>(),
                       .count = kCount,
                       .a = memory.normals<T>(kCount),
                       .b = memory.normals<T>(kCount),
                       .y = memory.empty<T>(kCount)};
    return [args](auto stream) { kernels::add(stream, args); };
  });
}

template <class T>
void accumulate(benchmark::State& state, Mode mode) {
  bench::measure(state, mode, {.bytes = bytes_of(3, sizeof(T))}, [](auto, Memory& memory) {
    const ScaleArgs args{.dtype = dtype_of<T>(),
                         .count = kCount,
                         .x = memory.normals<T>(kCount, 1e-3),
                         .y = memory.normals<T>(kCount),
                         .mode = GradMode::kAccumulate};
    return [args](auto stream) { kernels::scale(stream, args); };
  });
}

void cast(benchmark::State& state, Mode mode) {
  bench::measure(state, mode, {.bytes = bytes_of(1, sizeof(float) + sizeof(bf16))}, [](auto, Memory& memory) {
    const CastArgs args{.from = DType::f32,
                        .to = DType::bf16,
                        .count = kCount,
                        .x = memory.normals<float>(kCount),
                        .y = memory.empty<bf16>(kCount)};
    return [args](auto stream) { kernels::cast(stream, args); };
  });
}

template <class T>
void fill(benchmark::State& state, Mode mode) {
  bench::measure(state, mode, {.bytes = bytes_of(1, sizeof(T))}, [](auto, Memory& memory) {
    const FillArgs args{.dtype = dtype_of<T>(), .count = kCount, .y = memory.empty<T>(kCount), .value = 0.5};
    return [args](auto stream) { kernels::fill(stream, args); };
  });
}

// From the first stage to the second: a quarter of x is read, y is half of x.
template <class T>
void shortcut_a(benchmark::State& state, Mode mode) {
  const ShortcutAShape shape{kBatch, 32, 32, 16, 32, 2};
  bench::measure(state, mode, {.bytes = bytes_of(1, sizeof(T)) * 3 / 4}, [&](auto, Memory& memory) {
    const ShortcutAForwardArgs args{.dtype = dtype_of<T>(),
                                    .shape = shape,
                                    .x = memory.normals<T>(kCount),
                                    .y = memory.empty<T>(kCount / 2)};
    return [args](auto stream) { shortcut_a_forward(stream, args); };
  });
}

[[maybe_unused]] const bool registered =
    bench::add("relu_forward/f32", &relu_forward<float>) &&
    bench::add("relu_forward/bf16", &relu_forward<bf16>) &&
    bench::add("relu_backward/f32", &relu_backward<float>) &&
    bench::add("relu_backward/bf16", &relu_backward<bf16>) &&
    bench::add("leaky_relu_forward/f32", &leaky_relu_forward<float>) &&
    bench::add("sigmoid_forward/f32", &sigmoid_forward<float>) &&
    bench::add("sigmoid_forward/bf16", &sigmoid_forward<bf16>) && bench::add("add/f32", &add<float>) &&
    bench::add("add/bf16", &add<bf16>) && bench::add("accumulate/f32", &accumulate<float>) &&
    bench::add("accumulate/bf16", &accumulate<bf16>) && bench::add("cast/f32_to_bf16", &cast) &&
    bench::add("fill/f32", &fill<float>) && bench::add("shortcut_a/f32", &shortcut_a<float>) &&
    bench::add("shortcut_a/bf16", &shortcut_a<bf16>);

}  // namespace
}  // namespace cohort::kernels
