// Philox4x32-10, the counter-based generator behind every random draw of the engine: the same key and counter
// give the same bits on every device, so no generator state is ever saved or replayed.
//
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Compiles as C++ and as CUDA.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/base/host_device.h"

namespace cohort {

struct PhiloxCounter {
  std::uint32_t x, y, z, w;
};

struct PhiloxKey {
  std::uint32_t x, y;
};

template <int kRounds = 10>
COHORT_HOST_DEVICE inline PhiloxCounter philox4x32(PhiloxCounter c, PhiloxKey k) {
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53U} * c.x;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57U} * c.z;
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c.y ^ k.x, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c.w ^ k.y, static_cast<std::uint32_t>(p0)};
    k.x += 0x9E3779B9U;
    k.y += 0xBB67AE85U;
  }
  return c;
}

// What a stream of draws is for; part of the key, so that no two purposes ever share a number. Values are
// frozen: checkpoints and golden files depend on them.
enum class RngPurpose : std::uint8_t {
  kInit = 1,         // parameter initialisation
  kShuffle = 2,      // order of an epoch
  kSplit = 3,        // held-out part of the training set
  kAugment = 4,      // crop, flip
  kPerturb = 5,      // stochastic perturbation of one member's input
  kPerturbPlan = 6,  // which member, which operation
  kDataset = 7,      // generated data sets
  kDropout = 8,
  kLabelNoise = 9,  // labels drawn anew
  kTest = 255
};

// The address of a sequence of draws. Bit layout (frozen):
//   key     = (seed low, seed high)
//   counter = x: draw / 4 (24 bits) | purpose (8 bits high)
//             y: sample (32 bits)
//             z: epoch (32 bits)
//             w: member (16 bits) | tag (16 bits high), tag free for the caller (parameter index, operation)
struct RngAddress {
  std::uint64_t seed = 0;
  RngPurpose purpose = RngPurpose::kTest;
  std::uint32_t member = 0;  // < 65536
  std::uint32_t epoch = 0;
  std::uint32_t sample = 0;
  std::uint32_t tag = 0;  // < 65536
};

// Draws from one address, in order. Cheap to make; holds at most one block of four words.
class Rng {
 public:
  // `block` skips the first 4 * block words, so that many threads can share one address; below 2^24.
  COHORT_HOST_DEVICE explicit Rng(const RngAddress& a, std::uint32_t block = 0)
      : key_{static_cast<std::uint32_t>(a.seed), static_cast<std::uint32_t>(a.seed >> 32)},
        counter_{(static_cast<std::uint32_t>(a.purpose) << 24) + block, a.sample, a.epoch,
                 (a.member & 0xffffU) | (a.tag << 16)} {}

  // 32 uniform bits. At most 2^26 words per address.
  COHORT_HOST_DEVICE std::uint32_t bits() {
    if (used_ == 4) {
      const PhiloxCounter block = philox4x32(counter_, key_);
      words_[0] = block.x;
      words_[1] = block.y;
      words_[2] = block.z;
      words_[3] = block.w;
      ++counter_.x;
      used_ = 0;
    }
    return words_[used_++];
  }

  COHORT_HOST_DEVICE std::uint64_t bits64() {
    const std::uint64_t high = bits();
    return (high << 32) | bits();
  }

  // [0, 1) in steps of 2^-24: the same float on every device.
  COHORT_HOST_DEVICE float uniform() { return static_cast<float>(bits() >> 8) * 0x1p-24F; }
  COHORT_HOST_DEVICE float uniform(float low, float high) { return low + (high - low) * uniform(); }

  // [0, n) without modulo bias (rejection); n >= 1.
  COHORT_HOST_DEVICE std::uint32_t below(std::uint32_t n) {
    const std::uint32_t rejected = (0U - n) % n;  // 2^32 mod n
    std::uint32_t x = bits();
    while (x < rejected) x = bits();
    return x % n;
  }

  // Standard normal (Box-Muller, cosine branch; consumes two words).
  COHORT_HOST_DEVICE float normal() {
    const float u = static_cast<float>((bits() >> 8) + 1U) * 0x1p-24F;  // (0, 1]
    const float v = uniform();
    return std::sqrt(-2.0F * std::log(u)) * std::cos(6.283185307179586F * v);
  }

 private:
  PhiloxKey key_;
  PhiloxCounter counter_;
  std::uint32_t words_[4] = {0, 0, 0, 0};
  int used_ = 4;
};

}  // namespace cohort
