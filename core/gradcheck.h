// Numeric against analytic derivatives, in double.
//
// Central 5-point stencil (8 (f(+h) - f(-h)) - (f(+2h) - f(-2h))) / 12 h with h = 1e-3 max(1, |x|): its error
// is about h^4, so 1e-7 of the largest entry is a fair demand, 10,000 times tighter than the usual framework
// default.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace cohort {

struct GradcheckOptions {
  double relative = 1e-7;  // of the largest |analytic| entry
  double absolute = 1e-10;
  std::int64_t max_inputs = 20000;  // beyond: every k-th entry
};

// `f` is the scalar function, `x` its input (changed and restored), `analytic` its gradient at x. Returns an
// empty string, or a description of the worst entry.
std::string gradcheck(const std::function<double()>& f, double* x, std::int64_t count,
                      const std::vector<double>& analytic, const GradcheckOptions& options = {});

}  // namespace cohort
