// A held-out part of the training set, chosen class by class.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cohort::data {

// Indices into the set, each list sorted, together every index once.
struct Split {
  std::vector<std::int32_t> train, held_out;
};

// Holds out round(fraction * n) of each class's n images, but always leaves one of each class to train on.
// `fraction` in [0, 1). Which ones depends on the seed and on an image's index only, so adding images of
// another class moves nothing.
Split stratified_split(std::span<const std::int32_t> labels, int num_classes, double fraction,
                       std::uint64_t seed);

// The same with a fixed number per class (KDCL's validation sets: 50 per class of CIFAR-100).
Split stratified_split_count(std::span<const std::int32_t> labels, int num_classes, std::int64_t per_class,
                             std::uint64_t seed);

}  // namespace cohort::data
