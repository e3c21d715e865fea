// One element of a source as a double (kernels/step_record.h).
#pragma once

#include "kernels/base/host_device.h"
#include "kernels/step_record.h"

namespace cohort::kernels {

COHORT_HOST_DEVICE inline double record_value(const RecordSource& source, std::int64_t i) {
  if (source.data == nullptr) return static_cast<double>(__builtin_nanf(""));
  switch (source.dtype) {
    case DType::f64:
      return static_cast<const double*>(source.data)[i];
    case DType::f32:
      return static_cast<double>(static_cast<const float*>(source.data)[i]);
    case DType::bf16:
      return static_cast<double>(static_cast<const bf16*>(source.data)[i]);
    default:
      return static_cast<double>(static_cast<const std::int32_t*>(source.data)[i]);
  }
}

}  // namespace cohort::kernels
