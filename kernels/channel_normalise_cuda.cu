// Mapping: a block of 8 warps per sample and 32 channels, a lane per channel, the warps take the positions in
// turn; their sums meet in shared memory and are added in the warps' order. A block's part of the map, 8 KiB
// of a last stage, is read again from L1. Shared memory: 1 KiB (f64: 2) per sum. Bytes: the header's formula.
// Not timed on a GPU yet.
#include <cmath>

#include "kernels/base/rehearsal.h"
#include "kernels/channel_normalise.h"
#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/vec.cuh"

namespace cohort::kernels {
namespace {

constexpr int kWarps = 8;

// Where a thread's channel lies: of sample n the positions begin at `base`, `stride` apart.
struct Place {
  std::int64_t base;
  int warp, lane;
  bool inside;
};

template <class Args>
__device__ Place place_of(const Args& args, unsigned tiles) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t sample = blockIdx.x / tiles;
  const std::int64_t channel = static_cast<std::int64_t>(blockIdx.x % tiles) * kWarp + lane;
  return {sample * args.positions * args.channels + channel, warp, lane, channel < args.channels};
}

// The sum of all warps' numbers of a lane, in every warp.
template <class A>
__device__ A across_warps(A value, const Place& place) {
  SIMT_SHARED(A, of_warp, [kWarps][kWarp]);
  of_warp[place.warp][place.lane] = value;
  __syncthreads();
  A sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += of_warp[w][place.lane];
  __syncthreads();  // the next sum takes their place
  return sum;
}

template <class T>
__global__ void __launch_bounds__(kWarps* kWarp)
    normalise_forward_kernel(const __grid_constant__ ChannelNormaliseArgs args, unsigned tiles) {
  using A = Accumulator<T>;
  const Place at = place_of(args, tiles);
  const T* const x = static_cast<const T*>(args.x) + at.base;
  T* const y = static_cast<T*>(args.y) + at.base;
  A squares = 0;
  if (at.inside) {
    for (std::int64_t p = at.warp; p < args.positions; p += kWarps) {
      const A v = to_float(x[p * args.channels]);
      squares += v * v;
    }
  }
  const A norm = std::sqrt(across_warps(squares, at));
  if (!at.inside) return;
  const bool flat = norm <= static_cast<A>(kShortestRow);
  for (std::int64_t p = at.warp; p < args.positions; p += kWarps)
    y[p * args.channels] = from_float<T>(flat ? A{0} : to_float(x[p * args.channels]) / norm);
}

template <class T>
__global__ void __launch_bounds__(kWarps* kWarp)
    normalise_backward_kernel(const __grid_constant__ ChannelNormaliseBackwardArgs args, unsigned tiles) {
  using A = Accumulator<T>;
  const Place at = place_of(args, tiles);
  const T* const x = static_cast<const T*>(args.x) + at.base;
  const T* const g = static_cast<const T*>(args.grad_y) + at.base;
  T* const out = static_cast<T*>(args.grad_x) + at.base;
  A squares = 0, along = 0;
  if (at.inside) {
    for (std::int64_t p = at.warp; p < args.positions; p += kWarps) {
      const A v = to_float(x[p * args.channels]);
      squares += v * v;
      along += to_float(g[p * args.channels]) * v;
    }
  }
  const A norm = std::sqrt(across_warps(squares, at));
  along = across_warps(along, at);
  if (!at.inside) return;
  const bool flat = norm <= static_cast<A>(kShortestRow);
  for (std::int64_t p = at.warp; p < args.positions; p += kWarps) {
    const std::int64_t i = p * args.channels;
    const A unit = to_float(x[i]) / norm;
    const A gradient = flat ? A{0} : (to_float(g[i]) - unit * (along / norm)) / norm;
    out[i] = from_float<T>(args.mode == GradMode::kAccumulate ? to_float(out[i]) + gradient : gradient);
  }
}

unsigned tiles_of(std::int64_t channels) {
  return static_cast<unsigned>((channels + kWarp - 1) / kWarp);
}

simt::LaunchConfig config(CudaStream stream, std::int64_t samples, std::int64_t channels) {
  return {
      .grid = static_cast<unsigned>(samples) * tiles_of(channels), .block = kWarps * kWarp, .stream = stream};
}

}  // namespace

std::size_t channel_normalise_workspace(CudaStream, DType, std::int64_t) {
  return 0;
}

void channel_normalise(CudaStream stream, const ChannelNormaliseArgs& args, Workspace) {
  if (args.samples * args.channels == 0) return;
  const Rehearsed rehearsed(stream, "channel_normalise", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    simt::launch(normalise_forward_kernel<T>, config(stream, args.samples, args.channels), args,
                 tiles_of(args.channels));
  });
}

void channel_normalise_backward(CudaStream stream, const ChannelNormaliseBackwardArgs& args, Workspace) {
  if (args.samples * args.channels == 0) return;
  const Rehearsed rehearsed(stream, "channel_normalise_backward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    simt::launch(normalise_backward_kernel<T>, config(stream, args.samples, args.channels), args,
                 tiles_of(args.channels));
  });
}

}  // namespace cohort::kernels
