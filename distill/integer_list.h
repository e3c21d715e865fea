// Options that are lists: "0,1" or "75,150".
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace cohort::distill {

// Integers from `least` on, separated by commas; an empty text is an empty list. Nothing: it is no such list.
std::optional<std::vector<int>> parse_integers(const std::string& text, int least);

}  // namespace cohort::distill
