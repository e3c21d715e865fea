#include "data/label_noise.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/base/philox.h"

namespace cohort::data {

std::int64_t add_label_noise(std::span<std::int32_t> labels, std::span<const std::int32_t> indices,
                             int num_classes, const LabelNoise& noise) {
  if (!(noise.share >= 0 && noise.share <= 1)) {
    throw Error(ErrorKind::kUsage, fmt::format("label noise of {} is not in [0, 1]", noise.share),
                "0.1 draws a tenth of the labels anew");
  }
  struct Draw {
    std::uint64_t order;
    std::int32_t index, label;
  };
  std::vector<Draw> draws;
  for (const std::int32_t index : indices) {
    Rng rng(RngAddress{
        .seed = noise.seed, .purpose = RngPurpose::kLabelNoise, .sample = static_cast<std::uint32_t>(index)});
    const std::uint64_t order = rng.bits64();
    const std::int32_t old = labels[static_cast<std::size_t>(index)];
    auto label = static_cast<std::int32_t>(
        rng.below(static_cast<std::uint32_t>(noise.exclude_true ? num_classes - 1 : num_classes)));
    if (noise.exclude_true && label >= old) ++label;
    draws.push_back({order, index, label});
  }
  std::sort(draws.begin(), draws.end(), [](const Draw& a, const Draw& b) {
    return std::pair(a.order, a.index) < std::pair(b.order, b.index);
  });
  const auto count =
      static_cast<std::size_t>(std::floor(noise.share * static_cast<double>(draws.size()) + 0.5));
  std::int64_t wrong = 0;
  for (std::size_t i = 0; i < count; ++i) {
    std::int32_t& label = labels[static_cast<std::size_t>(draws[i].index)];
    wrong += draws[i].label != label ? 1 : 0;
    label = draws[i].label;
  }
  return wrong;
}

}  // namespace cohort::data
