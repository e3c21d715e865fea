// Pooling at the shapes of VGG-8 (2 x 2), an ImageNet stem (3 x 3, stride 2) and a CIFAR ResNet's end
// (global). Bytes from kernels/pool.h.
#include "kernels/pool.h"

#include "bench/support/device_bench.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

constexpr std::int64_t kBatch = bench::scaled(128);

std::int64_t num_x(const PoolShape& s) {
  return s.batch * s.height * s.width * s.channels;
}
std::int64_t num_y(const PoolShape& s) {
  return s.batch * s.out_height * s.out_width * s.channels;
}

template <class T>
double bytes_of(const PoolShape& s, int extra_per_output = 0) {
  return static_cast<double>(num_x(s)) * sizeof(T) +
         static_cast<double>(num_y(s)) * (static_cast<int>(sizeof(T)) + extra_per_output);
}

template <class T, bool kBackward>
void max_pool(benchmark::State& state, Mode mode) {
  const bool stem = state.range(0) == 3;
  const PoolShape shape =
      stem ? PoolShape{bench::scaled(8), 112, 112, 64, 56, 56} : PoolShape{kBatch, 32, 32, 64, 16, 16};
  const PoolWindow window = stem ? PoolWindow{3, 2, 1} : PoolWindow{2, 2, 0};
  bench::measure(state, mode, {.bytes = bytes_of<T>(shape, 4)}, [&](auto stream, Memory& memory) {
    T* const y = memory.empty<T>(num_y(shape));
    std::int32_t* const argmax = memory.empty<std::int32_t>(num_y(shape));
    const MaxPoolForwardArgs forward{.dtype = dtype_of<T>(),
                                     .shape = shape,
                                     .window = window,
                                     .x = memory.normals<T>(num_x(shape)),
                                     .y = y,
                                     .argmax = argmax};
    MaxPoolBackwardArgs backward{.dtype = dtype_of<T>(), .shape = shape, .window = window, .argmax = argmax};
    if (kBackward) {
      max_pool_forward(stream, forward);
      backward.grad_y = memory.normals<T>(num_y(shape));
      backward.grad_x = memory.empty<T>(num_x(shape));
    }
    return [=](auto on) {
      if constexpr (kBackward) {
        max_pool_backward(on, backward);
      } else {
        max_pool_forward(on, forward);
      }
    };
  });
}

template <class T, bool kBackward>
void avg_pool(benchmark::State& state, Mode mode) {
  const PoolShape shape{kBatch, 32, 32, 64, 16, 16};
  const PoolWindow window{2, 2, 0};
  bench::measure(state, mode, {.bytes = bytes_of<T>(shape)}, [&](auto, Memory& memory) {
    T* const x = memory.normals<T>(num_x(shape));
    T* const y = memory.normals<T>(num_y(shape));
    return [=](auto on) {
      if constexpr (kBackward) {
        avg_pool_backward(
            on, {.dtype = dtype_of<T>(), .shape = shape, .window = window, .grad_y = y, .grad_x = x});
      } else {
        avg_pool_forward(on, {.dtype = dtype_of<T>(), .shape = shape, .window = window, .x = x, .y = y});
      }
    };
  });
}

template <class T, bool kBackward>
void global_avg_pool(benchmark::State& state, Mode mode) {
  const PoolShape shape{kBatch, 8, 8, state.range(0), 1, 1};
  bench::measure(state, mode, {.bytes = bytes_of<T>(shape)}, [&](auto, Memory& memory) {
    T* const x = memory.normals<T>(num_x(shape));
    T* const y = memory.normals<T>(num_y(shape));
    return [=](auto on) {
      if constexpr (kBackward) {
        global_avg_pool_backward(on, {.dtype = dtype_of<T>(), .shape = shape, .grad_y = y, .grad_x = x});
      } else {
        global_avg_pool_forward(on, {.dtype = dtype_of<T>(), .shape = shape, .x = x, .y = y});
      }
    };
  });
}

void windows(benchmark::internal::Benchmark* b) {
  b->ArgName("size")->Arg(2)->Arg(3);
}
void channels(benchmark::internal::Benchmark* b) {
  b->ArgName("channels")->Arg(64)->Arg(640);
}

[[maybe_unused]] const bool registered =
    bench::add("max_pool/f32", &max_pool<float, false>, windows) &&
    bench::add("max_pool/bf16", &max_pool<bf16, false>, windows) &&
    bench::add("max_pool_backward/f32", &max_pool<float, true>, windows) &&
    bench::add("max_pool_backward/bf16", &max_pool<bf16, true>, windows) &&
    bench::add("avg_pool/bf16", &avg_pool<bf16, false>) &&
    bench::add("avg_pool_backward/bf16", &avg_pool<bf16, true>) &&
    bench::add("global_avg_pool/f32", &global_avg_pool<float, false>, channels) &&
    bench::add("global_avg_pool/bf16", &global_avg_pool<bf16, false>, channels) &&
    bench::add("global_avg_pool_backward/f32", &global_avg_pool<float, true>, channels) &&
    bench::add("global_avg_pool_backward/bf16", &global_avg_pool<bf16, true>, channels);

}  // namespace
}  // namespace cohort::kernels
