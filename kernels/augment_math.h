// What the standard augmentation draws and computes for one sample and one pixel: shared by both backends, so
// that they agree bit by bit.
#pragma once

#include <cstdint>

#include "kernels/base/philox.h"

namespace cohort::kernels {

inline constexpr int kMaxImageChannels = 4;

// Per-channel statistics of pixels in [0, 1]: value = (pixel / 255 - mean) / std.
struct Normalisation {
  double mean[kMaxImageChannels] = {0, 0, 0, 0};
  double std[kMaxImageChannels] = {1, 1, 1, 1};
};

struct AugmentOptions {
  int pad = 4;       // zeros (black) around the image before a crop of its own size; 0: no crop
  bool flip = true;  // horizontally, with probability 1/2
  int cutout =
      0;  // side of one square set to the mean colour, centre uniform, clipped at the border; 0: none
};

// No augmentation: evaluation, and `augment = none`.
inline constexpr AugmentOptions kNoAugment{.pad = 0, .flip = false, .cutout = 0};

struct AugmentDraw {
  int dy = 0, dx = 0;  // offset of the crop from the image, in [-pad, pad]
  bool flip = false;
  int cutout_y = 0, cutout_x = 0;  // centre of the square
};

// Addressed by the sample's index in the data set, not by its place in the batch: order, batch size and
// thread count change nothing. Order of draws (frozen): dy, dx, flip, cutout_y, cutout_x.
COHORT_HOST_DEVICE inline AugmentDraw draw_augment(const AugmentOptions& options, std::uint64_t seed,
                                                   std::uint32_t member, std::uint32_t epoch,
                                                   std::uint32_t sample, int height, int width) {
  Rng rng(RngAddress{seed, RngPurpose::kAugment, member, epoch, sample, 0});
  AugmentDraw draw;
  if (options.pad > 0) {
    const auto range = static_cast<std::uint32_t>(2 * options.pad + 1);
    draw.dy = static_cast<int>(rng.below(range)) - options.pad;
    draw.dx = static_cast<int>(rng.below(range)) - options.pad;
  }
  if (options.flip) draw.flip = (rng.bits() >> 31) != 0;
  if (options.cutout > 0) {
    draw.cutout_y = static_cast<int>(rng.below(static_cast<std::uint32_t>(height)));
    draw.cutout_x = static_cast<int>(rng.below(static_cast<std::uint32_t>(width)));
  }
  return draw;
}

// Divisions only, in double: the same bits with and without fused multiply-add.
template <class A>
COHORT_HOST_DEVICE inline A normalise(int pixel, double mean, double std) {
  return static_cast<A>((static_cast<double>(pixel) / 255.0 - mean) / std);
}

}  // namespace cohort::kernels
