#pragma once

#include <cmath>

#include "kernels/base/host_device.h"

namespace cohort::kernels {

template <class A>
COHORT_HOST_DEVICE inline A sigmoid(A x) {
  return A{1} / (A{1} + std::exp(-x));
}

}  // namespace cohort::kernels
