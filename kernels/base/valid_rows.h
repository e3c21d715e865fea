// Short batches: of `rows` rows only the leading ones count, a number in device memory that a captured step
// can change.
#pragma once

#include <cstdint>

#include "kernels/base/host_device.h"

namespace cohort::kernels {

// How many count, whatever the number says; null: all.
COHORT_HOST_DEVICE inline std::int64_t count_valid(const std::int32_t* valid_rows, std::int64_t rows) {
  if (valid_rows == nullptr) return rows;
  const std::int64_t valid = *valid_rows;
  return valid < 0 ? 0 : valid < rows ? valid : rows;
}

}  // namespace cohort::kernels
