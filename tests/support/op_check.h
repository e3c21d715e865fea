// Gradient checks of one differentiable operation, in double on the CPU.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "core/context.h"
#include "core/gradcheck.h"
#include "tests/support/random.h"

namespace cohort::test {

// An input that learns, as a parameter does: value and gradient live outside the tape.
struct Leaf {
  Leaf(const Shape& shape, std::vector<double> initial)
      : values(std::move(initial)),
        gradient(values.size(), 0.0),
        slot{.data = gradient.data(), .dtype = DType::f64, .persistent = true},
        tensor{values.data(), shape, DType::f64, &slot} {}
  Leaf(const Shape& shape, Random& random)
      : Leaf(shape, random.normals<double>(static_cast<std::size_t>(shape.count()))) {}
  Leaf(const Leaf&) = delete;
  Leaf& operator=(const Leaf&) = delete;

  std::vector<double> values, gradient;
  GradSlot slot;
  Tensor tensor;
};

inline Context double_context() {
  return Context({.device = {}, .precision = Precision::kF64, .num_threads = 2, .poison = true});
}

// Writes the gradient of every leaf for the scalar <direction, forward()>.
inline void backward(Context& ctx, const std::function<Tensor()>& forward, const std::vector<Leaf*>& leaves,
                     const std::vector<double>& direction) {
  for (Leaf* leaf : leaves) {
    leaf->slot.written = false;
    std::fill(leaf->gradient.begin(), leaf->gradient.end(), 1e30);  // must be overwritten
  }
  ctx.begin_step();
  const GradTarget target = ctx.grad_target(forward());
  std::copy(direction.begin(), direction.end(), target.grad.as<double>());
  ctx.backward();
}

// Compares the gradient of <direction, forward()> by every entry of every leaf with differences.
inline void check_gradients(Context& ctx, const std::function<Tensor()>& forward,
                            const std::vector<Leaf*>& leaves) {
  Random random(base_seed() + 99);
  ctx.begin_step();
  const Tensor y = forward();
  const std::vector<double> direction = random.normals<double>(static_cast<std::size_t>(y.count()));
  backward(ctx, forward, leaves, direction);
  const auto f = [&] {
    ctx.begin_step();
    const double* const values = forward().as<double>();
    double sum = 0;
    for (std::size_t i = 0; i < direction.size(); ++i) sum += values[i] * direction[i];
    return sum;
  };
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "input " << i);
    EXPECT_EQ(gradcheck(f, leaves[i]->values.data(), leaves[i]->tensor.count(), leaves[i]->gradient), "");
  }
}

// The message of the Error(kInternal) that f throws; empty where it throws none.
template <class F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInternal);
    return error.what();
  }
  return "";
}

}  // namespace cohort::test
