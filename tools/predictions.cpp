#include "tools/predictions.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace cohort::tools {

int Predictions::predicted(std::size_t member, std::size_t row) const {
  const float* z = logits[member].data() + row * static_cast<std::size_t>(num_classes);
  return static_cast<int>(std::max_element(z, z + num_classes) - z);
}

Predictions predict(RunSetup& run, const std::string& part, const distill::Placement& placement) {
  const bool test = part == "test";
  const ImageSet& set = test ? run.data.test : run.data.train;
  std::vector<std::int32_t> indices = part == "val" ? run.split.held_out : run.split.train;
  if (test) {
    indices.resize(static_cast<std::size_t>(set.size()));
    std::iota(indices.begin(), indices.end(), 0);
  }
  if (indices.empty()) {
    throw Error(ErrorKind::kUsage, fmt::format("there are no {} images", part), "choose another --split");
  }
  Predictions predictions;
  predictions.num_classes = set.num_classes;
  predictions.logits = run.cohort->predict(distill::to_device(*run.ctx, set, placement), indices);
  for (const std::int32_t i : indices) predictions.labels.push_back(set.labels[static_cast<std::size_t>(i)]);
  return predictions;
}

}  // namespace cohort::tools
