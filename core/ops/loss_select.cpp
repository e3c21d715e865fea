#include "core/ops/loss_select.h"

#include "kernels/base/error.h"

namespace cohort::ops {

Tensor entry(const Tensor& vector, std::int64_t i) {
  check(vector.shape.rank() == 1 && i >= 0 && i < vector.shape[0], "entry: index outside of the vector");
  const auto offset = static_cast<std::size_t>(i) * size_of(vector.dtype);
  return {static_cast<std::byte*>(vector.data) + offset, Shape{}, vector.dtype, nullptr};
}

Tensor entry(const Tensor& matrix, std::int64_t i, std::int64_t j) {
  check(matrix.shape.rank() == 2 && i >= 0 && i < matrix.shape[0] && j >= 0 && j < matrix.shape[1],
        "entry: index outside of the matrix");
  const auto offset = static_cast<std::size_t>(i * matrix.shape[1] + j) * size_of(matrix.dtype);
  return {static_cast<std::byte*>(matrix.data) + offset, Shape{}, matrix.dtype, nullptr};
}

}  // namespace cohort::ops
