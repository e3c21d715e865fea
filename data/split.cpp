#include "data/split.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/philox.h"

namespace cohort::data {
namespace {

// held_out(n): how many of a class's n images to hold out.
Split split_classes(std::span<const std::int32_t> labels, int num_classes, std::uint64_t seed,
                    const std::function<std::int64_t(std::int64_t)>& held_out) {
  std::vector<std::vector<std::pair<std::uint64_t, std::int32_t>>> classes(
      static_cast<std::size_t>(std::max(num_classes, 0)));
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] < 0 || labels[i] >= num_classes) {
      throw Error(
          ErrorKind::kInput,
          fmt::format("split: image {} has label {}, but there are {} classes", i, labels[i], num_classes),
          "labels count from 0");
    }
    Rng rng(RngAddress{.seed = seed, .purpose = RngPurpose::kSplit, .sample = static_cast<std::uint32_t>(i)});
    classes[static_cast<std::size_t>(labels[i])].emplace_back(rng.bits64(), static_cast<std::int32_t>(i));
  }
  Split split;
  for (auto& members : classes) {
    std::sort(members.begin(), members.end());
    const auto size = static_cast<std::int64_t>(members.size());
    const std::int64_t held =
        std::clamp<std::int64_t>(held_out(size), 0, std::max<std::int64_t>(size - 1, 0));
    for (std::int64_t i = 0; i < size; ++i) {
      (i < held ? split.held_out : split.train).push_back(members[static_cast<std::size_t>(i)].second);
    }
  }
  std::sort(split.train.begin(), split.train.end());
  std::sort(split.held_out.begin(), split.held_out.end());
  return split;
}

}  // namespace

Split stratified_split(std::span<const std::int32_t> labels, int num_classes, double fraction,
                       std::uint64_t seed) {
  if (!(fraction >= 0.0 && fraction < 1.0)) {
    throw Error(ErrorKind::kUsage, fmt::format("held-out fraction {} is not in [0, 1)", fraction),
                "0.1 holds out a tenth of every class");
  }
  return split_classes(labels, num_classes, seed, [fraction](std::int64_t n) {
    return static_cast<std::int64_t>(std::floor(fraction * static_cast<double>(n) + 0.5));
  });
}

Split stratified_split_count(std::span<const std::int32_t> labels, int num_classes, std::int64_t per_class,
                             std::uint64_t seed) {
  if (per_class < 0) {
    throw Error(ErrorKind::kUsage, fmt::format("held-out images per class: {} is negative", per_class),
                "use 0 or more");
  }
  return split_classes(labels, num_classes, seed, [per_class](std::int64_t) { return per_class; });
}

}  // namespace cohort::data
