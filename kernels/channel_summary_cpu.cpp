#include "kernels/channel_summary.h"

#include <algorithm>

#include "kernels/base/sigmoid.h"
#include "kernels/cpu/parallel.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kChannelBlock = 1024;  // sums of one block of channels live on the stack

template <class T, class A>
void gate_of(const T* scores, std::int64_t channels, A* gate) {
  for (std::int64_t c = 0; c < channels; ++c) gate[c] = sigmoid(static_cast<A>(scores[c]));
}

template <class T>
void forward(CpuStream stream, const ChannelSummaryArgs& args) {
  using A = Accumulator<T>;
  const std::int64_t channels = args.shape.channels, positions = args.shape.positions;
  parallel_for(stream, args.shape.samples, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      A* const gate = static_cast<A*>(args.gate) + n * channels;
      gate_of(static_cast<const T*>(args.scores) + n * channels, channels, gate);
      for (std::int64_t p = n * positions; p < (n + 1) * positions; ++p) {
        const T* const x = static_cast<const T*>(args.x) + p * channels;
        A sum = 0, best = gate[0] * static_cast<A>(x[0]);
        std::int64_t at = 0;
        for (std::int64_t c = 0; c < channels; ++c) {
          const A v = gate[c] * static_cast<A>(x[c]);
          sum += v;
          if (v > best || (v != v && best == best)) {
            best = v;
            at = c;
          }
        }
        T* const summary = static_cast<T*>(args.summary) + 2 * p;
        summary[0] = static_cast<T>(sum / static_cast<A>(channels));
        summary[1] = static_cast<T>(best);
        args.argmax[p] = static_cast<std::int32_t>(at);
      }
    }
  });
}

template <class T, class A>
void put(T* to, A value, GradMode mode) {
  *to = static_cast<T>(mode == GradMode::kOverwrite ? value : static_cast<A>(*to) + value);
}

// Channels [first, first + block) of sample n.
template <class T>
void backward_block(const ChannelSummaryBackwardArgs& args, std::int64_t n, std::int64_t first,
                    std::int64_t block) {
  using A = Accumulator<T>;
  const std::int64_t channels = args.shape.channels, positions = args.shape.positions;
  const A* const gate = static_cast<const A*>(args.gate) + n * channels + first;
  alignas(64) A sums[kChannelBlock] = {};
  alignas(64) A d[kChannelBlock];
  for (std::int64_t p = n * positions; p < (n + 1) * positions; ++p) {
    const T* const g = static_cast<const T*>(args.grad_summary) + 2 * p;
    const T* const x = static_cast<const T*>(args.x) + p * channels + first;
    std::fill_n(d, block, static_cast<A>(g[0]) / static_cast<A>(channels));
    const std::int64_t best = args.argmax[p] - first;
    if (best >= 0 && best < block) d[best] += static_cast<A>(g[1]);
#pragma omp simd
    for (std::int64_t c = 0; c < block; ++c) sums[c] += static_cast<A>(x[c]) * d[c];
    if (args.grad_x == nullptr) continue;
    T* const grad_x = static_cast<T*>(args.grad_x) + p * channels + first;
    for (std::int64_t c = 0; c < block; ++c) put(grad_x + c, gate[c] * d[c], args.grad_x_mode);
  }
  if (args.grad_scores == nullptr) return;
  T* const grad = static_cast<T*>(args.grad_scores) + n * channels + first;
  for (std::int64_t c = 0; c < block; ++c)
    put(grad + c, gate[c] * (1 - gate[c]) * sums[c], args.grad_scores_mode);
}

template <class T>
void backward(CpuStream stream, const ChannelSummaryBackwardArgs& args) {
  parallel_for(stream, args.shape.samples, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      for (std::int64_t c = 0; c < args.shape.channels; c += kChannelBlock)
        backward_block<T>(args, n, c, std::min(kChannelBlock, args.shape.channels - c));
    }
  });
}

}  // namespace

void channel_summary(CpuStream stream, const ChannelSummaryArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { forward<T>(stream, args); });
}

void channel_summary_backward(CpuStream stream, const ChannelSummaryBackwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { backward<T>(stream, args); });
}

}  // namespace cohort::kernels
