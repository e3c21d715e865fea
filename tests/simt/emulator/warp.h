// Warp collectives: computed when the last lane of the mask has come, so that no lane can overwrite what
// another one has not read yet.
#pragma once

#include <cstdint>

#include "simt/emulator/engine.h"

namespace simt::detail {

inline constexpr int kWarpSize = 32;

// What one lane brought to a collective.
struct LaneRequest {
  WarpOp op;
  unsigned mask;
  std::uint64_t value;
  int lane, width;  // of a shuffle
};

const char* name_of(WarpOp op);

// The lane whose value lane `self` gets; itself where CUDA leaves the value unchanged.
int shuffle_source(const LaneRequest& request, int self);

// The common result of a vote or a reduction over the lanes of the mask.
std::uint64_t combine(WarpOp op, unsigned mask, const std::uint64_t (&values)[kWarpSize]);

inline bool is_shuffle(WarpOp op) {
  return op >= WarpOp::kShuffle && op <= WarpOp::kShuffleXor;
}

}  // namespace simt::detail
