// `cohort inspect similarity`: where two networks of a run look alike.
#pragma once

#include <vector>

#include "tools/args.h"

namespace cohort::tools {

std::vector<FlagSpec> similarity_flags();
int inspect_similarity(const Arguments& arguments);

}  // namespace cohort::tools
