#include "simt/emulator/warp.h"

#include <algorithm>

namespace simt::detail {
namespace {

std::uint64_t fold(WarpOp op, std::uint64_t a, std::uint64_t b) {
  const auto x = static_cast<std::uint32_t>(a), y = static_cast<std::uint32_t>(b);
  const auto signed_x = static_cast<std::int32_t>(x), signed_y = static_cast<std::int32_t>(y);
  switch (op) {
    case WarpOp::kAddUnsigned:
      return static_cast<std::uint32_t>(x + y);
    case WarpOp::kMinUnsigned:
      return std::min(x, y);
    case WarpOp::kMaxUnsigned:
      return std::max(x, y);
    case WarpOp::kMinSigned:
      return static_cast<std::uint32_t>(std::min(signed_x, signed_y));
    case WarpOp::kMaxSigned:
      return static_cast<std::uint32_t>(std::max(signed_x, signed_y));
    case WarpOp::kAll:
    case WarpOp::kAndBits:
      return x & y;
    case WarpOp::kAny:
    case WarpOp::kOrBits:
      return x | y;
    case WarpOp::kXorBits:
      return x ^ y;
    default:
      return 0;
  }
}

}  // namespace

const char* name_of(WarpOp op) {
  switch (op) {
    case WarpOp::kSync:
      return "__syncwarp";
    case WarpOp::kShuffle:
      return "__shfl_sync";
    case WarpOp::kShuffleUp:
      return "__shfl_up_sync";
    case WarpOp::kShuffleDown:
      return "__shfl_down_sync";
    case WarpOp::kShuffleXor:
      return "__shfl_xor_sync";
    case WarpOp::kBallot:
      return "__ballot_sync";
    case WarpOp::kAny:
      return "__any_sync";
    case WarpOp::kAll:
      return "__all_sync";
    case WarpOp::kAddUnsigned:
      return "__reduce_add_sync";
    case WarpOp::kMinUnsigned:
    case WarpOp::kMinSigned:
      return "__reduce_min_sync";
    case WarpOp::kMaxUnsigned:
    case WarpOp::kMaxSigned:
      return "__reduce_max_sync";
    case WarpOp::kAndBits:
      return "__reduce_and_sync";
    case WarpOp::kOrBits:
      return "__reduce_or_sync";
    case WarpOp::kXorBits:
      return "__reduce_xor_sync";
  }
  return "?";
}

// The five low bits count, as in the instruction. A segment of `width` lanes; out of its upper end (lower end
// for `up`) the lane keeps its own value; `xor` may read an earlier segment.
int shuffle_source(const LaneRequest& request, int self) {
  const int segment = self & ~(request.width - 1);
  const int operand = request.lane & (kWarpSize - 1);
  int source = self;
  switch (request.op) {
    case WarpOp::kShuffle:
      return segment | (request.lane & (request.width - 1));
    case WarpOp::kShuffleUp:
      source = self - operand;
      return source < segment ? self : source;
    case WarpOp::kShuffleDown:
      source = self + operand;
      break;
    default:
      source = self ^ operand;
      break;
  }
  return source >= segment + request.width ? self : source;
}

std::uint64_t combine(WarpOp op, unsigned mask, const std::uint64_t (&values)[kWarpSize]) {
  std::uint64_t result = 0;
  bool first = true;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1U) == 0) continue;
    if (op == WarpOp::kBallot) {
      result |= (values[lane] & 1U) << lane;
    } else {
      result = first ? values[lane] : fold(op, result, values[lane]);
    }
    first = false;
  }
  return result;
}

}  // namespace simt::detail
