// What methods whose networks have their first parts in common (ONE, CLNN) say about that alike.
#pragma once

#include "distill/method.h"

namespace cohort::distill {

constexpr int kAllButTheLast = 0;

// The option PREFIX.shared.
OptionSpec shared_parts_option(const std::string& prefix);

// Throws Error(kUsage) for a number that leaves nothing to share or no branch.
int shared_parts(const models::Network& model, int wanted, const char* method);

// Throws Error(kUsage) for fewer than two networks.
void check_branches(const char* method, int members);

}  // namespace cohort::distill
