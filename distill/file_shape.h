// A shape as safetensors files hold it.
#pragma once

#include <cstdint>
#include <vector>

#include "core/shape.h"

namespace cohort::distill {

inline std::vector<std::int64_t> file_shape(const Shape& shape) {
  std::vector<std::int64_t> dims;
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
  return dims;
}

}  // namespace cohort::distill
