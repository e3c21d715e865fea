// What kernels of single losses share: the end of a loss, and small constants.
#pragma once

#include "kernels/base/dtype.h"
#include "kernels/base/error.h"
#include "kernels/base/host_device.h"

namespace cohort::kernels {

inline constexpr double kShortestRow =
    1e-12;  // PyTorch's F.normalize divides by no less; here such a row is 0

// The smallest normal number.
template <class A>
inline constexpr A kSmallest = static_cast<A>(1.17549435e-38F);
template <>
inline constexpr double kSmallest<double> = 2.2250738585072014e-308;

template <class A>
COHORT_HOST_DEVICE A sign_of(A x) {
  return x > A{0} ? A{1} : x < A{0} ? A{-1} : A{0};
}

// Writes the value, adds weight value to the loss; null: not. A weight that is null is 1.
template <class A>
COHORT_HOST_DEVICE void finish_loss(double value, const void* weight, void* to_value, void* to_loss) {
  if (to_value != nullptr) *static_cast<A*>(to_value) = static_cast<A>(value);
  if (to_loss == nullptr) return;
  A& loss = *static_cast<A*>(to_loss);
  const double factor = weight == nullptr ? 1.0 : static_cast<double>(*static_cast<const A*>(weight));
  loss = static_cast<A>(static_cast<double>(loss) + factor * value);
}

// Calls f with float or double: of sums, losses and statistics.
template <class F>
decltype(auto) dispatch_accumulator(DType dtype, F&& f) {
  if (dtype == DType::f32) return f(std::type_identity<float>{});
  if (dtype == DType::f64) return f(std::type_identity<double>{});
  internal_error("dispatch_accumulator: neither f32 nor f64");
}

}  // namespace cohort::kernels
