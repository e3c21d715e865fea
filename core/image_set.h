// A labelled set of images of one size in host memory: what readers and generators make, and what feeds copy
// to the device once.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/augment_math.h"

namespace cohort {

struct ImageSet {
  std::string name = {};
  int height = 0, width = 0, channels = 3;
  std::vector<std::uint8_t> images = {};  // (N,H,W,C)
  std::vector<std::int32_t> labels = {};  // (N), each in [0, num_classes)
  int num_classes = 0;
  kernels::Normalisation normalisation = {};
  std::vector<std::uint8_t> masks = {};       // (N,H,W), 1 on the object; empty where a set has none
  std::vector<std::string> class_names = {};  // num_classes

  std::int64_t size() const { return static_cast<std::int64_t>(labels.size()); }
  std::int64_t image_bytes() const { return std::int64_t{height} * width * channels; }
  const std::uint8_t* image(std::int64_t i) const { return images.data() + i * image_bytes(); }

  // The images at `indices`, in that order.
  ImageSet subset(std::span<const std::int32_t> indices) const;

  // Hash of shape, classes, labels, pixels and masks: a resumed run compares it with its checkpoint's.
  std::uint64_t fingerprint() const;

  // Throws Error(kInput) unless the set can be trained on: not empty, at least two classes, sizes that agree,
  // labels in range.
  void check_usable() const;
};

// Per-channel mean and standard deviation of the pixels in [0, 1] (exact integer sums). A constant channel
// gets standard deviation 1.
kernels::Normalisation measure_normalisation(const ImageSet& set);

}  // namespace cohort
