#include <algorithm>

#include "kernels/base/sigmoid.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/parallel.h"
#include "kernels/pixel_gate.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kElementsPerChunk = 16384;

std::int64_t grain(std::int64_t channels) {
  return std::max<std::int64_t>(1, kElementsPerChunk / std::max<std::int64_t>(1, channels));
}

template <class T>
void forward(CpuStream stream, const PixelGateArgs& args) {
  using A = Accumulator<T>;
  const std::int64_t channels = args.channels;
  parallel_for(stream, args.positions, grain(channels), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const A gate = sigmoid(load(static_cast<const T*>(args.scores), n));
      const T* const x = static_cast<const T*>(args.x) + n * channels;
      T* const y = static_cast<T*>(args.y) + n * channels;
#pragma omp simd
      for (std::int64_t c = 0; c < channels; ++c) store(y, c, gate * load(x, c));
    }
  });
}

template <class T>
void backward(CpuStream stream, const PixelGateBackwardArgs& args) {
  using A = Accumulator<T>;
  const std::int64_t channels = args.channels;
  parallel_for(stream, args.positions, grain(channels), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const A gate = sigmoid(load(static_cast<const T*>(args.scores), n));
      const T* const x = static_cast<const T*>(args.x) + n * channels;
      const T* const g = static_cast<const T*>(args.grad_y) + n * channels;
      A sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t c = 0; c < channels; ++c) sum += load(g, c) * load(x, c);
      if (args.grad_x != nullptr) {
        T* const grad = static_cast<T*>(args.grad_x) + n * channels;
        if (args.grad_x_mode == GradMode::kOverwrite) {
#pragma omp simd
          for (std::int64_t c = 0; c < channels; ++c) store(grad, c, gate * load(g, c));
        } else {
#pragma omp simd
          for (std::int64_t c = 0; c < channels; ++c) store(grad, c, load(grad, c) + gate * load(g, c));
        }
      }
      if (args.grad_scores == nullptr) continue;
      T* const grad = static_cast<T*>(args.grad_scores);
      const A own = gate * (1 - gate) * sum;
      store(grad, n, args.grad_scores_mode == GradMode::kOverwrite ? own : load(grad, n) + own);
    }
  });
}

}  // namespace

void pixel_gate(CpuStream stream, const PixelGateArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { forward<T>(stream, args); });
}

void pixel_gate_backward(CpuStream stream, const PixelGateBackwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { backward<T>(stream, args); });
}

}  // namespace cohort::kernels
