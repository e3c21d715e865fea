// One launch for all members, cut as kernels/cuda/parameter_tiles.cuh says. A thread takes four vectors of 16
// bytes of each of the five streams, a block's width apart, all loaded before the first is used. No shared
// memory. The members travel by value in the kernel's parameters (62 of them in 4 KiB): nothing is
// copied, and a captured launch keeps them. Rates and mask are read from device memory. Bytes moved: as the
// header says. Registers (ptxas, sm_90): at most 64 f32, 72 f64; no spill.
#include <algorithm>
#include <type_traits>

#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/parameter_tiles.cuh"
#include "kernels/sgd.h"

namespace cohort::kernels {
namespace {

using Index = std::int64_t;

constexpr int kMostMembers = 62;

struct Member {
  void* parameter;
  const void* gradient;
  void* momentum;
  bf16* shadow;
  Index count;
  Index decayed;  // elements [0, decayed) decay
  double weight_decay;
  unsigned first_tile;
  bool wide;  // 16-byte accesses
};

struct Launch {
  Member member[kMostMembers];
  const float* learning_rate;
  const std::int32_t* step_mask;
  double momentum;
  int num_members;
};
static_assert(sizeof(Launch) <= 4096, "kernel parameters hold 4 KiB on every device");

template <class T>
struct Rule {
  T learning_rate, momentum, weight_decay;
};

// The new parameters of elements [i, i + W) in `p`, the new momentum in `v`.
template <bool kMomentum, bool kNesterov, class T, int W>
__device__ void step(const Rule<T>& rule, Index i, Index decayed, const Pack<T, W>& gradient, Pack<T, W>& v,
                     Pack<T, W>& p) {
#pragma unroll
  for (int k = 0; k < W; ++k) {
    T g = gradient[k];
    if (i + k < decayed) g += rule.weight_decay * p[k];
    if constexpr (kMomentum) {
      v[k] = rule.momentum * v[k] + g;
      g = kNesterov ? g + rule.momentum * v[k] : v[k];
    }
    p[k] -= rule.learning_rate * g;
  }
}

template <bool kMomentum, bool kNesterov, class T, int W>
__device__ void update_tile(const Rule<T>& rule, const Member& m, Index begin) {
  constexpr int kTurns = 4;
  T* const parameter = static_cast<T*>(m.parameter);
  const T* const gradient = static_cast<const T*>(m.gradient);
  T* const momentum = static_cast<T*>(m.momentum);
  for (int from = 0; from < kParameterTile; from += kTurns * kParameterThreads * W) {
    Pack<T, W> p[kTurns], g[kTurns], v[kTurns];
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const Index i = begin + from + (turn * kParameterThreads + static_cast<int>(threadIdx.x)) * W;
      const int n = elements_at(m.count, i, W);
      p[turn] = Pack<T, W>::load(parameter + i, n);
      g[turn] = Pack<T, W>::load(gradient + i, n);
      if constexpr (kMomentum) v[turn] = Pack<T, W>::load(momentum + i, n);
    }
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const Index i = begin + from + (turn * kParameterThreads + static_cast<int>(threadIdx.x)) * W;
      const int n = elements_at(m.count, i, W);
      step<kMomentum, kNesterov>(rule, i, m.decayed, g[turn], v[turn], p[turn]);
      p[turn].store(parameter + i, n);
      if constexpr (kMomentum) v[turn].store(momentum + i, n);
      if (m.shadow != nullptr) store_shadow(p[turn], m.shadow + i, n);
    }
  }
}

template <class T, bool kMomentum, bool kNesterov>
__global__ __launch_bounds__(kParameterThreads) void sgd_kernel(const Launch launch) {
  int m = 0;
  while (m + 1 < launch.num_members && blockIdx.x >= launch.member[m + 1].first_tile) ++m;
  if (launch.step_mask != nullptr && launch.step_mask[m] == 0) return;
  const Member& member = launch.member[m];
  const Rule<T> rule{static_cast<T>(launch.learning_rate[m]), static_cast<T>(launch.momentum),
                     static_cast<T>(member.weight_decay)};
  const Index begin = static_cast<Index>(blockIdx.x - member.first_tile) * kParameterTile;
  if (member.wide) return update_tile<kMomentum, kNesterov, T, Vec<T>::kWidth>(rule, member, begin);
  update_tile<kMomentum, kNesterov, T, 1>(rule, member, begin);
}

template <class T>
void enqueue(CudaStream stream, const SgdArgs& args, const Launch& launch, unsigned tiles) {
  const simt::LaunchConfig config{.grid = tiles, .block = kParameterThreads, .stream = stream};
  if (args.momentum == 0) return simt::launch(sgd_kernel<T, false, false>, config, launch);
  if (args.nesterov) return simt::launch(sgd_kernel<T, true, true>, config, launch);
  simt::launch(sgd_kernel<T, true, false>, config, launch);
}

}  // namespace

void sgd(CudaStream stream, const SgdArgs& args) {
  const Rehearsed rehearsed(stream, "sgd", traffic(args));
  check(args.dtype == DType::f32 || args.dtype == DType::f64, "sgd: parameters are f32 or f64");
  for (std::size_t first = 0; first < args.members.size(); first += kMostMembers) {
    Launch launch{};
    launch.learning_rate = args.learning_rate + first;
    launch.step_mask = args.step_mask == nullptr ? nullptr : args.step_mask + first;
    launch.momentum = args.momentum;
    unsigned tiles = 0;
    for (const SgdMember& m :
         args.members.subspan(first, std::min<std::size_t>(kMostMembers, args.members.size() - first))) {
      const Index decayed = m.weight_decay == 0 ? 0 : m.num_decayed < 0 ? m.count : m.num_decayed;
      const bool wide = all_aligned16({m.parameter, m.gradient, m.momentum, m.shadow});
      launch.member[launch.num_members++] = {m.parameter, m.gradient,     m.momentum, m.shadow, m.count,
                                             decayed,     m.weight_decay, tiles,      wide};
      tiles += grid_size(m.count, kParameterTile);
    }
    if (args.dtype == DType::f64) {
      enqueue<double>(stream, args, launch, tiles);
    } else {
      enqueue<float>(stream, args, launch, tiles);
    }
  }
}

}  // namespace cohort::kernels
