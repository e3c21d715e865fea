// Wrong labels on purpose: the noisy-label protocol of the ADM paper (table 21).
#pragma once

#include <cstdint>
#include <span>

namespace cohort::data {

struct LabelNoise {
  double share = 0;           // of the images, in [0, 1]; their labels are drawn anew, once
  bool exclude_true = false;  // never the old label; else uniform over all classes
  std::uint64_t seed = 0;
};

// Draws new labels for round(share * n) of the n images in `indices`. Which ones, and what they become,
// depends on the seed and on an image's index only, and with a larger share the same ones change and others
// besides. Returns how many labels are now wrong. Throws Error(kUsage) for a share outside of [0, 1].
std::int64_t add_label_noise(std::span<std::int32_t> labels, std::span<const std::int32_t> indices,
                             int num_classes, const LabelNoise& noise);

}  // namespace cohort::data
