// The order of an epoch: a permutation of the images that are trained on.
//
//   key[i] = 64 random bits addressed by (seed, kShuffle, epoch, sample i)
//   out    = values in ascending order of (key, i)
//
// Every order is equally likely up to key collisions (n^2 / 2^65), which fall back to the order of i. The
// same bits on every device; an epoch's order needs no history.
//
// Shapes: values, out (count) i32, no overlap. `workspace` holds permutation_workspace(stream, count) bytes.
// Runs between steps, never inside a captured one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct PermutationArgs {
  const std::int32_t* values = nullptr;
  std::int32_t* out = nullptr;
  std::int64_t count = 0;
  std::uint64_t seed = 0;
  std::uint32_t epoch = 0;
};

// By the formula above.
inline Traffic traffic(const PermutationArgs& a) {
  return {8 * a.count};  // and the sort's own passes
}

std::size_t permutation_workspace(CpuStream stream, std::int64_t count);
std::size_t permutation_workspace(CudaStream stream, std::int64_t count);

void permutation(CpuStream stream, const PermutationArgs& args, Workspace workspace);
void permutation(CudaStream stream, const PermutationArgs& args, Workspace workspace);

}  // namespace cohort::kernels
