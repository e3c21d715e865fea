#include "core/gradcheck.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

namespace cohort {

std::string gradcheck(const std::function<double()>& f, double* x, std::int64_t count,
                      const std::vector<double>& analytic, const GradcheckOptions& options) {
  double largest = 0.0;
  for (const double a : analytic) largest = std::max(largest, std::abs(a));
  const double allowed = options.relative * largest + options.absolute;
  const std::int64_t stride = std::max<std::int64_t>(1, count / options.max_inputs);

  std::string worst;
  double worst_error = allowed;
  for (std::int64_t i = 0; i < count; i += stride) {
    const double at = x[i];
    const double h = 1e-3 * std::max(1.0, std::abs(at));
    const auto value = [&](double step) {
      x[i] = at + step * h;
      return f();
    };
    const double numeric = (8.0 * (value(1) - value(-1)) - (value(2) - value(-2))) / (12.0 * h);
    x[i] = at;
    const double error = std::abs(numeric - analytic[static_cast<std::size_t>(i)]);
    if (!(error <= worst_error)) {  // also NaN
      worst_error = error;
      worst = fmt::format("entry {}: numeric {:.12g}, analytic {:.12g}, error {:.3g}, allowed {:.3g}", i,
                          numeric, analytic[static_cast<std::size_t>(i)], error, allowed);
    }
  }
  return worst;
}

}  // namespace cohort
