// How near two words are: "did you mean" for options, settings and models.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cohort {

// Optimal string alignment distance (insert, delete, replace, swap of neighbours); 80 when a word is longer
// than 80.
int edit_distance(std::string_view a, std::string_view b);

// The nearest candidate within a third of the word's length (at least 1, at most 3); empty when none is.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace cohort
