// Concatenation, shuffle and slices of channels as differentiable operations (kernels/channel_concat.h has
// the formula). Maps are (N,H,W,C) of equal N, H, W and dtype.
#pragma once

#include "core/context.h"

namespace cohort::ops {

// Channels [first, first + count) of a map; count < 0: all from `first` on. Not copied until it is used.
struct ChannelSlice {
  Tensor map;
  std::int64_t first = 0;
  std::int64_t count = -1;
};

// The channels of a, then those of b, shuffled in `groups` groups (which must divide their number).
Tensor channel_concat(Context& ctx, const ChannelSlice& a, const ChannelSlice& b, int groups = 1);

// The channels of x as (groups, C/groups), transposed.
Tensor channel_shuffle(Context& ctx, const Tensor& x, int groups);

// A copy of the slice.
Tensor channel_slice(Context& ctx, const ChannelSlice& slice);

}  // namespace cohort::ops
