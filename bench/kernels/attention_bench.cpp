// Asymmetric decision-making on two networks' last maps, batch 128: each kernel, and forward and backward
// pass as a method runs them. Bytes from the formulas of kernels/pixel_cosine.h and attention_reweight.h.
#include "bench/support/device_bench.h"
#include "kernels/attention_reweight.h"
#include "kernels/pixel_cosine.h"

namespace cohort::kernels {
namespace {

using bench::Memory;
using bench::Mode;

constexpr std::int64_t kSamples = bench::scaled(128);

struct Sizes {
  std::int64_t positions, channels, pixels, elements;

  explicit Sizes(const benchmark::State& state)
      : positions(state.range(0) * state.range(0)),
        channels(state.range(1)),
        pixels(kSamples * positions),
        elements(pixels * channels) {}
  template <class T>
  double maps(int count) const {
    return static_cast<double>(elements) * count * sizeof(T);
  }
  double weights(int count) const { return static_cast<double>(pixels) * count * sizeof(float); }
  // By channels: 256 (8x8), 512 and 2048 (7x7) have targets.
  double pick(double c256, double c512, double c2048) const {
    return channels == 256 ? c256 : channels == 512 ? c512 : channels == 2048 ? c2048 : 0;
  }
};

template <class T>
struct Maps {
  PixelCosineArgs cosine;
  AttentionWeightsArgs weights;
  AttentionPoolArgs pool[2];
  AttentionPoolBackwardArgs backward[2];

  Maps(Memory& memory, const Sizes& s, bool gradients) {
    T* const features[] = {memory.normals<T>(s.elements), memory.normals<T>(s.elements, 0.5)};
    float* const similarity = memory.filled<float>(s.pixels, 0.3);
    float* const maps[] = {memory.filled<float>(s.pixels, 1.1), memory.filled<float>(s.pixels, 0.9)};
    cosine = {.dtype = dtype_of<T>(),
              .positions = s.pixels,
              .channels = s.channels,
              .a = features[0],
              .b = features[1],
              .similarity = similarity};
    weights = {.samples = kSamples,
               .positions = s.positions,
               .similarity = similarity,
               .co = maps[0],
               .di = maps[1]};
    for (int k = 0; k < 2; ++k) {
      T* const pooled = memory.normals<T>(kSamples * s.channels);
      pool[k] = {.dtype = dtype_of<T>(),
                 .samples = kSamples,
                 .positions = s.positions,
                 .channels = s.channels,
                 .features = features[k],
                 .weights = maps[k],
                 .pooled = pooled};
      backward[k] = {.dtype = dtype_of<T>(),
                     .samples = kSamples,
                     .positions = s.positions,
                     .channels = s.channels,
                     .features = features[k],
                     .weights = maps[k],
                     .grad_pooled = pooled};
      if (gradients) backward[k].grad_features = memory.empty<T>(s.elements);
    }
  }
};

template <class T>
void cosine(benchmark::State& state, Mode mode) {
  const Sizes s(state);
  bench::measure(state, mode, {.bytes = s.maps<T>(2) + s.weights(1), .target_us = s.pick(0, 0, 21)},
                 [&](auto, Memory& memory) {
                   const Maps<T> m(memory, s, false);
                   return [m](auto stream) { pixel_cosine(stream, m.cosine); };
                 });
}

template <class T>
void cosine_backward(benchmark::State& state, Mode mode) {
  const Sizes s(state);
  bench::measure(state, mode, {.bytes = s.maps<T>(6) + s.weights(1)}, [&](auto, Memory& memory) {
    const Maps<T> m(memory, s, false);
    const PixelCosineBackwardArgs args{.dtype = dtype_of<T>(),
                                       .positions = s.pixels,
                                       .channels = s.channels,
                                       .a = m.cosine.a,
                                       .b = m.cosine.b,
                                       .grad_similarity = m.cosine.similarity,
                                       .grad_a = memory.empty<T>(s.elements),
                                       .grad_b = memory.empty<T>(s.elements)};
    return [args](auto stream) { pixel_cosine_backward(stream, args); };
  });
}

void weights(benchmark::State& state, Mode mode) {
  const Sizes s(state);
  bench::measure(state, mode, {.bytes = s.weights(3)}, [&](auto, Memory& memory) {
    const AttentionWeightsArgs args{.samples = kSamples,
                                    .positions = s.positions,
                                    .similarity = memory.normals<float>(s.pixels, 0.1),
                                    .co = memory.empty<float>(s.pixels),
                                    .di = memory.empty<float>(s.pixels)};
    return [args](auto stream) { attention_weights(stream, args); };
  });
}

template <class T>
void pool(benchmark::State& state, Mode mode) {
  const Sizes s(state);
  bench::measure(state, mode, {.bytes = s.maps<T>(1)}, [&](auto, Memory& memory) {
    const Maps<T> m(memory, s, false);
    return [m](auto stream) { attention_pool(stream, m.pool[0]); };
  });
}

template <class T>
void pool_backward(benchmark::State& state, Mode mode) {
  const Sizes s(state);
  bench::measure(state, mode, {.bytes = s.maps<T>(2)}, [&](auto, Memory& memory) {
    const Maps<T> m(memory, s, true);
    return [m](auto stream) { attention_pool_backward(stream, m.backward[0]); };
  });
}

// Similarity, weight maps and both pooled vectors: the maps are read twice.
template <class T>
void forward_pass(benchmark::State& state, Mode mode) {
  const Sizes s(state);
  const bool cold = mode != Mode::kHot;
  bench::measure(state, mode,
                 {.bytes = s.maps<T>(4) + s.weights(4), .target_us = s.pick(cold ? 8 : 5, cold ? 11 : 7, 42)},
                 [&](auto, Memory& memory) {
                   const Maps<T> m(memory, s, false);
                   return [m](auto stream) {
                     pixel_cosine(stream, m.cosine);
                     attention_weights(stream, m.weights);
                     attention_pool(stream, m.pool[0]);
                     attention_pool(stream, m.pool[1]);
                   };
                 });
}

template <class T>
void backward_pass(benchmark::State& state, Mode mode) {
  const Sizes s(state);
  const bool cold = mode != Mode::kHot;
  bench::measure(state, mode, {.bytes = s.maps<T>(4), .target_us = s.pick(cold ? 11 : 7, cold ? 16 : 10, 62)},
                 [&](auto, Memory& memory) {
                   const Maps<T> m(memory, s, true);
                   return [m](auto stream) {
                     attention_pool_backward(stream, m.backward[0]);
                     attention_pool_backward(stream, m.backward[1]);
                   };
                 });
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"side", "channels"})->Args({8, 64})->Args({8, 256})->Args({7, 512})->Args({7, 2048});
}

[[maybe_unused]] const bool registered =
    bench::add("pixel_cosine/f32", &cosine<float>, shapes) &&
    bench::add("pixel_cosine/bf16", &cosine<bf16>, shapes) &&
    bench::add("pixel_cosine_backward/bf16", &cosine_backward<bf16>, shapes) &&
    bench::add("attention_weights", &weights, shapes) &&
    bench::add("attention_pool/bf16", &pool<bf16>, shapes) &&
    bench::add("attention_pool/f32", &pool<float>, shapes) &&
    bench::add("attention_pool_backward/bf16", &pool_backward<bf16>, shapes) &&
    bench::add("attention_pool_backward/f32", &pool_backward<float>, shapes) &&
    bench::add("adm_forward/bf16", &forward_pass<bf16>, shapes) &&
    bench::add("adm_backward/bf16", &backward_pass<bf16>, shapes);

}  // namespace
}  // namespace cohort::kernels
