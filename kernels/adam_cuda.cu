// Two launches: a thread per block of parameters counts its step and works out the bias corrections; then one
// launch for all elements, cut as kernels/cuda/parameter_tiles.cuh says. A thread takes two vectors of 16
// bytes of each of the four streams that it reads, a block's width apart, all loaded before the first is
// used. No shared memory. The blocks travel by value in the kernel's parameters (50 of them in 4 KiB), so
// that a captured launch keeps them; rates, mask and counters are read from device memory. Bytes moved: as
// the header says. Registers (ptxas, sm_90): 64 f32, 72 f64; no spill.
#include "kernels/adam.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/parameter_tiles.cuh"

namespace cohort::kernels {
namespace {

using Index = std::int64_t;

constexpr int kMostBlocks = 50;

struct Block {
  void* parameter;
  const void* gradient;
  void* mean;
  void* square;
  std::int32_t* steps;
  bf16* shadow;
  Index count;
  double weight_decay;
  unsigned first_tile;
  std::int16_t owner;
  bool wide;  // 16-byte accesses
};

struct Launch {
  Block block[kMostBlocks];
  const void* learning_rate;
  const std::int32_t* step_mask;
  AdamScale* scales;
  double beta1, beta2, epsilon;
  int num_blocks;

  __device__ bool steps(int b) const { return step_mask == nullptr || step_mask[block[b].owner] != 0; }
};
static_assert(sizeof(Launch) <= 4096, "kernel parameters hold 4 KiB on every device");

template <class T>
__global__ __launch_bounds__(64) void advance_kernel(const Launch launch) {
  const int b = static_cast<int>(threadIdx.x);
  if (b >= launch.num_blocks || !launch.steps(b)) return;
  const std::int32_t t = *launch.block[b].steps + 1;
  *launch.block[b].steps = t;
  launch.scales[b] = adam_scale(static_cast<double>(static_cast<const T*>(launch.learning_rate)[b]),
                                launch.beta1, launch.beta2, t);
}

template <class T>
struct Rule {
  T rate, root, beta1, beta2, rest1, rest2, epsilon, weight_decay;
};

template <class T, int W>
__device__ void step(const Rule<T>& rule, const Pack<T, W>& gradient, Pack<T, W>& m, Pack<T, W>& v,
                     Pack<T, W>& p) {
#pragma unroll
  for (int k = 0; k < W; ++k) {
    T g = gradient[k];
    if (rule.weight_decay != T{0}) g += rule.weight_decay * p[k];
    m[k] = rule.beta1 * m[k] + rule.rest1 * g;
    v[k] = rule.beta2 * v[k] + rule.rest2 * g * g;
    p[k] -= rule.rate * m[k] / (std::sqrt(v[k]) * rule.root + rule.epsilon);
  }
}

template <class T, int W>
__device__ void update_tile(const Rule<T>& rule, const Block& b, Index begin) {
  constexpr int kTurns = 2;
  T* const parameter = static_cast<T*>(b.parameter);
  const T* const gradient = static_cast<const T*>(b.gradient);
  T* const mean = static_cast<T*>(b.mean);
  T* const square = static_cast<T*>(b.square);
  for (int from = 0; from < kParameterTile; from += kTurns * kParameterThreads * W) {
    Pack<T, W> p[kTurns], g[kTurns], m[kTurns], v[kTurns];
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const Index i = begin + from + (turn * kParameterThreads + static_cast<int>(threadIdx.x)) * W;
      const int n = elements_at(b.count, i, W);
      p[turn] = Pack<T, W>::load(parameter + i, n);
      g[turn] = Pack<T, W>::load(gradient + i, n);
      m[turn] = Pack<T, W>::load(mean + i, n);
      v[turn] = Pack<T, W>::load(square + i, n);
    }
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const Index i = begin + from + (turn * kParameterThreads + static_cast<int>(threadIdx.x)) * W;
      const int n = elements_at(b.count, i, W);
      step(rule, g[turn], m[turn], v[turn], p[turn]);
      p[turn].store(parameter + i, n);
      m[turn].store(mean + i, n);
      v[turn].store(square + i, n);
      if (b.shadow != nullptr) store_shadow(p[turn], b.shadow + i, n);
    }
  }
}

template <class T>
__global__ __launch_bounds__(kParameterThreads) void adam_kernel(const Launch launch) {
  int b = 0;
  while (b + 1 < launch.num_blocks && blockIdx.x >= launch.block[b + 1].first_tile) ++b;
  if (!launch.steps(b)) return;
  const Block& block = launch.block[b];
  const AdamScale scale = launch.scales[b];
  const Rule<T> rule{static_cast<T>(scale.rate),         static_cast<T>(scale.root),
                     static_cast<T>(launch.beta1),       static_cast<T>(launch.beta2),
                     static_cast<T>(1.0 - launch.beta1), static_cast<T>(1.0 - launch.beta2),
                     static_cast<T>(launch.epsilon),     static_cast<T>(block.weight_decay)};
  const Index begin = static_cast<Index>(blockIdx.x - block.first_tile) * kParameterTile;
  if (block.wide) return update_tile<T, Vec<T>::kWidth>(rule, block, begin);
  update_tile<T, 1>(rule, block, begin);
}

template <class T>
void enqueue(CudaStream stream, const Launch& launch, unsigned tiles) {
  simt::launch(advance_kernel<T>, {.grid = 1, .block = 64, .stream = stream}, launch);
  simt::launch(adam_kernel<T>, {.grid = tiles, .block = kParameterThreads, .stream = stream}, launch);
}

}  // namespace

void adam(CudaStream stream, const AdamArgs& args, Workspace workspace) {
  const Rehearsed rehearsed(stream, "adam", traffic(args));
  check(args.dtype == DType::f32 || args.dtype == DType::f64, "adam: parameters are f32 or f64");
  check(workspace.size() >= adam_workspace(args.blocks.size()), "adam: workspace too small");
  const bool f64 = args.dtype == DType::f64;
  for (std::size_t first = 0; first < args.blocks.size(); first += kMostBlocks) {
    Launch launch{};
    launch.learning_rate = static_cast<const std::byte*>(args.learning_rate) + first * size_of(args.dtype);
    launch.step_mask = args.step_mask;
    launch.scales = reinterpret_cast<AdamScale*>(workspace.data()) + first;
    launch.beta1 = args.beta1;
    launch.beta2 = args.beta2;
    launch.epsilon = args.epsilon;
    unsigned tiles = 0;
    for (const AdamBlock& b :
         args.blocks.subspan(first, std::min<std::size_t>(kMostBlocks, args.blocks.size() - first))) {
      const bool wide = all_aligned16({b.parameter, b.gradient, b.mean, b.square, b.shadow});
      launch.block[launch.num_blocks++] = {
          b.parameter, b.gradient, b.mean,         b.square, b.steps,
          b.shadow,    b.count,    b.weight_decay, tiles,    static_cast<std::int16_t>(b.owner),
          wide};
      tiles += grid_size(b.count, kParameterTile);
    }
    if (f64) {
      enqueue<double>(stream, launch, tiles);
    } else {
      enqueue<float>(stream, launch, tiles);
    }
  }
}

}  // namespace cohort::kernels
