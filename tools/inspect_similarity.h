// `cohort inspect similarity`: where two networks of a run look alike.
#pragma once

#include <string>
#include <vector>

#include "tools/args.h"

namespace cohort::tools {

std::vector<FlagSpec> similarity_flags();
// --out, or `otherwise`. Throws Error(kUsage) unless it ends in .svg.
std::string svg_path(const Arguments& arguments, const std::string& otherwise);
int inspect_similarity(const Arguments& arguments);

}  // namespace cohort::tools
