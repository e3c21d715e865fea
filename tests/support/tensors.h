// Tensors from and to host vectors, for tests of ops.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "core/context.h"

namespace cohort::test {

template <class T>
Precision precision_of() {
  return dtype_of<T>() == DType::f64    ? Precision::kF64
         : dtype_of<T>() == DType::bf16 ? Precision::kBF16
                                        : Precision::kF32;
}

// A constant.
template <class T>
Tensor constant(Context& ctx, const Shape& shape, const std::vector<T>& values) {
  const Tensor t = ctx.empty(shape, dtype_of<T>());
  check(static_cast<std::int64_t>(values.size()) == shape.count(), "test: values do not fill the shape");
  ctx.upload(t, values.data());
  return t;
}

// A value whose gradient is wanted.
template <class T>
Tensor variable(Context& ctx, const Shape& shape, const std::vector<T>& values) {
  const Tensor t = ctx.variable(shape, dtype_of<T>());
  check(static_cast<std::int64_t>(values.size()) == shape.count(), "test: values do not fill the shape");
  ctx.upload(t, values.data());
  return t;
}

template <class T>
std::vector<T> download(Context& ctx, const Tensor& t) {
  check(t.dtype == dtype_of<T>(), "test: download as another dtype");
  std::vector<T> values(static_cast<std::size_t>(t.count()));
  ctx.download(values.data(), t);
  return values;
}

// Plays the loss: writes the gradient of y.
template <class T>
void seed_gradient(Context& ctx, const Tensor& y, const std::vector<T>& values) {
  const GradTarget target = ctx.grad_target(y);
  ASSERT_TRUE(target);
  ctx.upload(target.grad, values.data());
}

}  // namespace cohort::test
