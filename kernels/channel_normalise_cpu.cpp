#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"
#include "kernels/channel_normalise.h"
#include "kernels/cpu/parallel.h"

namespace cohort::kernels {
namespace {

template <class T, class A = Accumulator<T>>
void norms(const T* x, std::int64_t positions, std::int64_t channels, A* norm) {
  std::fill(norm, norm + channels, A{0});
  for (std::int64_t p = 0; p < positions; ++p) {
    const T* const row = x + p * channels;
#pragma omp simd
    for (std::int64_t c = 0; c < channels; ++c) norm[c] += static_cast<A>(row[c]) * static_cast<A>(row[c]);
  }
  for (std::int64_t c = 0; c < channels; ++c) norm[c] = std::sqrt(norm[c]);
}

template <class T>
void forward(CpuStream stream, const ChannelNormaliseArgs& args, Workspace workspace) {
  using A = Accumulator<T>;
  const std::int64_t channels = args.channels, positions = args.positions;
  A* const scratch = reinterpret_cast<A*>(workspace.data());
  parallel_chunks(stream, args.samples, [&](std::int64_t n, int thread) {
    A* const norm = scratch + 2 * channels * thread;
    const T* const x = static_cast<const T*>(args.x) + n * positions * channels;
    T* const y = static_cast<T*>(args.y) + n * positions * channels;
    norms(x, positions, channels, norm);
    for (std::int64_t p = 0; p < positions; ++p) {
      for (std::int64_t c = 0; c < channels; ++c) {
        const bool flat = norm[c] <= static_cast<A>(kShortestRow);
        const A v = static_cast<A>(x[p * channels + c]);
        y[p * channels + c] = static_cast<T>(flat ? A{0} : v / norm[c]);
      }
    }
  });
}

template <class T>
void backward(CpuStream stream, const ChannelNormaliseBackwardArgs& args, Workspace workspace) {
  using A = Accumulator<T>;
  const std::int64_t channels = args.channels, positions = args.positions;
  const bool adds = args.mode == GradMode::kAccumulate;
  A* const scratch = reinterpret_cast<A*>(workspace.data());
  parallel_chunks(stream, args.samples, [&](std::int64_t n, int thread) {
    A* const norm = scratch + 2 * channels * thread;
    A* const along = norm + channels;
    const T* const x = static_cast<const T*>(args.x) + n * positions * channels;
    const T* const g = static_cast<const T*>(args.grad_y) + n * positions * channels;
    T* const out = static_cast<T*>(args.grad_x) + n * positions * channels;
    norms(x, positions, channels, norm);
    std::fill(along, along + channels, A{0});
    for (std::int64_t p = 0; p < positions; ++p) {
#pragma omp simd
      for (std::int64_t c = 0; c < channels; ++c)
        along[c] += static_cast<A>(g[p * channels + c]) * static_cast<A>(x[p * channels + c]);
    }
    for (std::int64_t p = 0; p < positions; ++p) {
      for (std::int64_t c = 0; c < channels; ++c) {
        const std::int64_t at = p * channels + c;
        const bool flat = norm[c] <= static_cast<A>(kShortestRow);
        const A unit = static_cast<A>(x[at]) / norm[c];
        const A gradient = flat ? A{0} : (static_cast<A>(g[at]) - unit * (along[c] / norm[c])) / norm[c];
        out[at] = static_cast<T>(adds ? static_cast<A>(out[at]) + gradient : gradient);
      }
    }
  });
}

}  // namespace

std::size_t channel_normalise_workspace(CpuStream stream, DType dtype, std::int64_t channels) {
  return static_cast<std::size_t>(num_threads(stream)) * 2 * static_cast<std::size_t>(channels) *
         size_of(accumulator_of(dtype));
}

void channel_normalise(CpuStream stream, const ChannelNormaliseArgs& args, Workspace workspace) {
  check(workspace.size() >= channel_normalise_workspace(stream, args.dtype, args.channels),
        "channel_normalise: workspace too small");
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { forward<T>(stream, args, workspace); });
}

void channel_normalise_backward(CpuStream stream, const ChannelNormaliseBackwardArgs& args,
                                Workspace workspace) {
  check(workspace.size() >= channel_normalise_workspace(stream, args.dtype, args.channels),
        "channel_normalise: workspace too small");
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { backward<T>(stream, args, workspace); });
}

}  // namespace cohort::kernels
