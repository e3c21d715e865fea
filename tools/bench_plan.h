// `cohort bench step --dry-run`: what a step would do on a GPU, counted without one.
#pragma once

#include "tools/config.h"

namespace cohort::tools {

int print_step_costs(const Config& config, bool json);

}  // namespace cohort::tools
