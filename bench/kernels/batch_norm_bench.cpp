// Batch norm on the layers of CIFAR ResNets at batch 128, plain and fused with residual and ReLU. Bytes from
// the formulas of kernels/batch_norm.h.
#include "kernels/batch_norm.h"

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

template <class T>
struct Layer {
  using A = Accumulator<T>;
  BatchNormShape shape;

  explicit Layer(const benchmark::State& state)
      : shape{bench::scaled(128) * state.range(0) * state.range(0), state.range(1)} {}
  std::int64_t count() const { return shape.rows * shape.channels; }
  double bytes(int arrays) const { return static_cast<double>(count()) * arrays * sizeof(T); }

  BatchNormForwardArgs forward(Memory& memory, bool fused) const {
    return {.dtype = dtype_of<T>(),
            .shape = shape,
            .x = memory.normals<T>(count()),
            .residual = fused ? memory.normals<T>(count(), 0.5) : nullptr,
            .gamma = memory.filled<A>(shape.channels, 1.5),
            .beta = memory.filled<A>(shape.channels, 0.1),
            .mean = memory.empty<A>(shape.channels),
            .invstd = memory.empty<A>(shape.channels),
            .y = memory.empty<T>(count()),
            .relu = fused,
            .workspace = memory.workspace(batch_norm_workspace(shape))};
  }

  BatchNormBackwardArgs backward(Memory& memory, const BatchNormForwardArgs& f, bool fused) const {
    return {.dtype = dtype_of<T>(),
            .shape = shape,
            .x = f.x,
            .y = f.y,
            .grad_y = memory.normals<T>(count(), 1e-2),
            .gamma = f.gamma,
            .mean = f.mean,
            .invstd = f.invstd,
            .grad_x = memory.empty<T>(count()),
            .grad_residual = fused ? memory.empty<T>(count()) : nullptr,
            .grad_gamma = memory.empty<A>(shape.channels),
            .grad_beta = memory.empty<A>(shape.channels),
            .relu = fused,
            .workspace = f.workspace};
  }
};

template <class T, bool kFused>
void forward(benchmark::State& state, Mode mode) {
  const Layer<T> layer(state);
  bench::measure(state, mode, {.bytes = layer.bytes(kFused ? 4 : 3)}, [&](auto, Memory& memory) {
    const BatchNormForwardArgs args = layer.forward(memory, kFused);
    return [args](auto stream) { batch_norm_forward(stream, args); };
  });
}

template <class T, bool kFused>
void backward(benchmark::State& state, Mode mode) {
  const Layer<T> layer(state);
  bench::measure(state, mode, {.bytes = layer.bytes(kFused ? 7 : 5)}, [&](auto stream, Memory& memory) {
    const BatchNormForwardArgs f = layer.forward(memory, kFused);
    batch_norm_forward(stream, f);
    const BatchNormBackwardArgs args = layer.backward(memory, f, kFused);
    return [args](auto on) { batch_norm_backward(on, args); };
  });
}

void layers(benchmark::internal::Benchmark* b) {
  b->ArgNames({"side", "channels"});
  b->Args({32, 16})->Args({16, 32})->Args({8, 64})->Args({32, 64})->Args({8, 256});
}

[[maybe_unused]] const bool registered =
    bench::add("batch_norm_forward/f32", &forward<float, false>, layers) &&
    bench::add("batch_norm_forward/f32/fused", &forward<float, true>, layers) &&
    bench::add("batch_norm_backward/f32", &backward<float, false>, layers) &&
    bench::add("batch_norm_backward/f32/fused", &backward<float, true>, layers) &&
    bench::add("batch_norm_forward/bf16", &forward<bf16, false>, layers) &&
    bench::add("batch_norm_forward/bf16/fused", &forward<bf16, true>, layers) &&
    bench::add("batch_norm_backward/bf16", &backward<bf16, false>, layers) &&
    bench::add("batch_norm_backward/bf16/fused", &backward<bf16, true>, layers);

}  // namespace
}  // namespace cohort::kernels
