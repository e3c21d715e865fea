// The key by which image i is sorted (kernels/permutation.h): the same bits on every device.
#pragma once

#include <cstdint>

#include "kernels/base/philox.h"

namespace cohort::kernels {

COHORT_HOST_DEVICE inline std::uint64_t permutation_key(std::uint64_t seed, std::uint32_t epoch,
                                                        std::uint32_t i) {
  Rng rng({.seed = seed, .purpose = RngPurpose::kShuffle, .epoch = epoch, .sample = i});
  const std::uint64_t high = rng.bits();
  return high << 32 | rng.bits();
}

}  // namespace cohort::kernels
