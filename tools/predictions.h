// What the networks of a run make of one part of its data set.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/run_setup.h"

namespace cohort::tools {

struct Predictions {
  std::vector<std::vector<float>> logits;  // per member
  std::vector<std::int32_t> labels;
  int num_classes = 0;

  int predicted(std::size_t member, std::size_t row) const;
};

// `part`: test, val (the images held out for validation) or train. Throws Error(kUsage) when it is empty.
Predictions predict(RunSetup& run, const std::string& part, const distill::Placement& placement);

}  // namespace cohort::tools
