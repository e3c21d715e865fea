// `cohort inspect diswot`: which students suit a teacher, before any training.
#pragma once

#include <vector>

#include "tools/args.h"

namespace cohort::tools {

std::vector<FlagSpec> diswot_flags();
int inspect_diswot(const Arguments& arguments);

}  // namespace cohort::tools
