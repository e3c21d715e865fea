// `cohort inspect calibration` and `cohort inspect teachers`: charts of a run as files, and their numbers.
#pragma once

#include <vector>

#include "tools/args.h"

namespace cohort::tools {

std::vector<FlagSpec> chart_flags();
// Evaluates a checkpoint; exit code 3 where the run has none.
int inspect_calibration(const Arguments& arguments);
// From the records alone. Throws Error(kUsage) where the run's method has no teacher that changes.
int inspect_teachers(const Arguments& arguments);

}  // namespace cohort::tools
