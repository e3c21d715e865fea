// What an operation moves between memory and the chip, by the formula of its header: every array that it
// reads or writes, once. The few values per channel or per member that go with them are left out.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"

namespace cohort {

struct Traffic {
  std::int64_t bytes = 0;
  std::int64_t again = 0;  // read a second time by the same operation: from the L2 where the arrays fit it
};

constexpr std::int64_t bytes_of(DType dtype, std::int64_t count) {
  return count * static_cast<std::int64_t>(size_of(dtype));
}

// An array that is written is also read where the kernel adds to it.
constexpr std::int64_t written(DType dtype, std::int64_t count, GradMode mode) {
  return bytes_of(dtype, count) * (mode == GradMode::kAccumulate ? 2 : 1);
}

}  // namespace cohort
