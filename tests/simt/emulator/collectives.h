// Barriers, fences, shuffles and votes under CUDA's names. Call sites come from default arguments.
#pragma once

#include <type_traits>

#include "simt/emulator/engine.h"

#define SIMT_SITE_PARAMETERS                                        \
  const char *file = __builtin_FILE(), int line = __builtin_LINE(), \
             const char *function = __builtin_FUNCTION()
#define SIMT_SITE        \
  simt::detail::Site {   \
    file, line, function \
  }

namespace simt::detail {

template <class T>
concept Shuffled = std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, long> ||
    std::is_same_v<T, unsigned long> || std::is_same_v<T, long long> ||
    std::is_same_v<T, unsigned long long> || std::is_same_v<T, float> || std::is_same_v<T, double>;

template <Shuffled T>
std::uint64_t to_word(T value) {
  if constexpr (sizeof(T) == 8) return __builtin_bit_cast(std::uint64_t, value);
  if constexpr (sizeof(T) == 4) return __builtin_bit_cast(std::uint32_t, value);
}

template <Shuffled T>
T from_word(std::uint64_t word) {
  if constexpr (sizeof(T) == 8) return __builtin_bit_cast(T, word);
  if constexpr (sizeof(T) == 4) return __builtin_bit_cast(T, static_cast<std::uint32_t>(word));
}

template <Shuffled T>
T shuffle(WarpOp op, unsigned mask, T value, int lane, int width, const Site& site) {
  return from_word<T>(warp_collective(op, mask, to_word(value), lane, width, site));
}

inline std::uint64_t vote(WarpOp op, unsigned mask, bool predicate, const Site& site) {
  return warp_collective(op, mask, predicate ? 1U : 0U, 0, 32, site);
}

}  // namespace simt::detail

// What waits or orders and gives no value can be left out by name: mutate_barriers.py does so with each.
inline void __syncthreads(SIMT_SITE_PARAMETERS) {
  if (simt::detail::left_out(SIMT_SITE)) return;
  simt::detail::block_barrier(simt::detail::BlockOp::kSync, 0, SIMT_SITE);
}
inline int __syncthreads_count(int predicate, SIMT_SITE_PARAMETERS) {
  return simt::detail::block_barrier(simt::detail::BlockOp::kCount, predicate, SIMT_SITE);
}
inline int __syncthreads_and(int predicate, SIMT_SITE_PARAMETERS) {
  return simt::detail::block_barrier(simt::detail::BlockOp::kAnd, predicate, SIMT_SITE);
}
inline int __syncthreads_or(int predicate, SIMT_SITE_PARAMETERS) {
  return simt::detail::block_barrier(simt::detail::BlockOp::kOr, predicate, SIMT_SITE);
}
inline void __syncwarp(unsigned mask = 0xffffffffU, SIMT_SITE_PARAMETERS) {
  if (simt::detail::left_out(SIMT_SITE)) return;
  simt::detail::warp_collective(simt::detail::WarpOp::kSync, mask, 0, 0, 32, SIMT_SITE);
}

// A thread that polls. The others run first.
inline void __nanosleep(unsigned, SIMT_SITE_PARAMETERS) {
  simt::detail::sleep(SIMT_SITE);
}

inline void __threadfence(SIMT_SITE_PARAMETERS) {
  if (!simt::detail::left_out(SIMT_SITE)) simt::detail::fence();
}
inline void __threadfence_system(SIMT_SITE_PARAMETERS) {
  if (!simt::detail::left_out(SIMT_SITE)) simt::detail::fence();
}

template <simt::detail::Shuffled T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_SITE_PARAMETERS) {
  return simt::detail::shuffle(simt::detail::WarpOp::kShuffle, mask, value, source, width, SIMT_SITE);
}
template <simt::detail::Shuffled T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE_PARAMETERS) {
  return simt::detail::shuffle(simt::detail::WarpOp::kShuffleUp, mask, value, static_cast<int>(delta), width,
                               SIMT_SITE);
}
template <simt::detail::Shuffled T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE_PARAMETERS) {
  return simt::detail::shuffle(simt::detail::WarpOp::kShuffleDown, mask, value, static_cast<int>(delta),
                               width, SIMT_SITE);
}
template <simt::detail::Shuffled T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, SIMT_SITE_PARAMETERS) {
  return simt::detail::shuffle(simt::detail::WarpOp::kShuffleXor, mask, value, lane_mask, width, SIMT_SITE);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_SITE_PARAMETERS) {
  return static_cast<unsigned>(
      simt::detail::vote(simt::detail::WarpOp::kBallot, mask, predicate != 0, SIMT_SITE));
}
inline int __any_sync(unsigned mask, int predicate, SIMT_SITE_PARAMETERS) {
  return static_cast<int>(simt::detail::vote(simt::detail::WarpOp::kAny, mask, predicate != 0, SIMT_SITE));
}
inline int __all_sync(unsigned mask, int predicate, SIMT_SITE_PARAMETERS) {
  return static_cast<int>(simt::detail::vote(simt::detail::WarpOp::kAll, mask, predicate != 0, SIMT_SITE));
}

// sm_80 and newer; unsigned and int, as CUDA has them.
inline unsigned __reduce_add_sync(unsigned mask, unsigned value, SIMT_SITE_PARAMETERS) {
  return simt::detail::from_word<unsigned>(
      simt::detail::warp_collective(simt::detail::WarpOp::kAddUnsigned, mask, value, 0, 32, SIMT_SITE));
}
inline int __reduce_add_sync(unsigned mask, int value, SIMT_SITE_PARAMETERS) {
  return static_cast<int>(__reduce_add_sync(mask, static_cast<unsigned>(value), file, line, function));
}
#define SIMT_REDUCE(name, type, op)                                                       \
  inline type name(unsigned mask, type value, SIMT_SITE_PARAMETERS) {                     \
    return simt::detail::from_word<type>(simt::detail::warp_collective(                   \
        simt::detail::WarpOp::op, mask, simt::detail::to_word(value), 0, 32, SIMT_SITE)); \
  }
SIMT_REDUCE(__reduce_min_sync, unsigned, kMinUnsigned)
SIMT_REDUCE(__reduce_min_sync, int, kMinSigned)
SIMT_REDUCE(__reduce_max_sync, unsigned, kMaxUnsigned)
SIMT_REDUCE(__reduce_max_sync, int, kMaxSigned)
SIMT_REDUCE(__reduce_and_sync, unsigned, kAndBits)
SIMT_REDUCE(__reduce_or_sync, unsigned, kOrBits)
SIMT_REDUCE(__reduce_xor_sync, unsigned, kXorBits)
#undef SIMT_REDUCE
