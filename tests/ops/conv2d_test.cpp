#include "core/ops/conv2d.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "core/gradcheck.h"
#include "tests/support/random.h"

namespace cohort {
namespace {

using test::Random;

// A constant that learns, as a parameter does: its gradient lives outside the tape.
struct Leaf {
  std::vector<double> values;
  std::vector<double> gradient;
  GradSlot slot;
  Tensor tensor;

  Leaf(const Shape& shape, Random& random)
      : values(random.normals<double>(static_cast<std::size_t>(shape.count()))), gradient(values.size()) {
    slot = {.data = gradient.data(), .dtype = DType::f64, .persistent = true};
    tensor = {values.data(), shape, DType::f64, &slot};
  }
};

double dot(const double* a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < b.size(); ++i) sum += a[i] * b[i];
  return sum;
}

void check_gradients(const Shape& x_shape, const Shape& weight_shape, const ops::Conv2dOptions& options) {
  Random random(test::base_seed());
  Context ctx({.device = {}, .precision = Precision::kF64, .num_threads = 2});
  Leaf x(x_shape, random);
  Leaf weight(weight_shape, random);
  Leaf bias(Shape{weight_shape[0]}, random);
  const auto forward = [&] {
    ctx.begin_step();
    return ops::conv2d(ctx, x.tensor, weight.tensor, options, bias.tensor);
  };
  const Tensor y = forward();
  const std::vector<double> direction = random.normals<double>(static_cast<std::size_t>(y.count()));
  const GradTarget target = ctx.grad_target(y);
  std::copy(direction.begin(), direction.end(), target.grad.as<double>());
  ctx.backward();
  const auto f = [&] { return dot(forward().as<double>(), direction); };
  for (Leaf* leaf : {&x, &weight, &bias}) {
    EXPECT_EQ(gradcheck(f, leaf->values.data(), leaf->tensor.count(), leaf->gradient), "");
  }
}

TEST(Conv2dOp, GradientsAgreeWithDifferences) {
  check_gradients({2, 5, 4, 3}, {4, 3, 3, 3}, {.padding = 1});
  check_gradients({2, 6, 7, 4}, {6, 3, 3, 2}, {.stride = 2, .padding = 1, .groups = 2});
  check_gradients({1, 8, 8, 2}, {2, 3, 3, 1}, {.padding = 2, .dilation = 2, .groups = 2});
  check_gradients({2, 5, 5, 3}, {5, 1, 1, 3}, {.stride = 2});
}

TEST(Conv2dOp, AGradientThatIsAlreadyThereIsAddedTo) {
  Random random(test::base_seed());
  Context ctx({.device = {}, .precision = Precision::kF64, .num_threads = 1});
  Leaf x({2, 4, 4, 2}, random);
  Leaf weight({2, 1, 1, 2}, random);
  const auto run = [&](int uses) {
    ctx.begin_step();
    x.slot.written = weight.slot.written = false;
    std::vector<Tensor> results;
    for (int i = 0; i < uses; ++i) results.push_back(ops::conv2d(ctx, x.tensor, weight.tensor));
    for (const Tensor& y : results) {
      const GradTarget target = ctx.grad_target(y);
      std::fill_n(target.grad.as<double>(), y.count(), 1.0);
    }
    ctx.backward();
  };
  run(1);
  const std::vector<double> x_once = x.gradient;
  const std::vector<double> weight_once = weight.gradient;
  run(2);
  for (std::size_t i = 0; i < x_once.size(); ++i) EXPECT_EQ(x.gradient[i], 2 * x_once[i]);
  for (std::size_t i = 0; i < weight_once.size(); ++i) EXPECT_EQ(weight.gradient[i], 2 * weight_once[i]);
}

TEST(Conv2dOp, EvaluationRecordsNothing) {
  Random random(test::base_seed());
  Context ctx({.device = {}, .precision = Precision::kF64, .num_threads = 1});
  ctx.set_recording(false);
  Leaf x({1, 4, 4, 2}, random);
  Leaf weight({2, 3, 3, 2}, random);
  const Tensor y = ops::conv2d(ctx, x.tensor, weight.tensor, {.padding = 1});
  EXPECT_EQ(y.shape, (Shape{1, 4, 4, 2}));
  EXPECT_EQ(y.grad, nullptr);
  EXPECT_TRUE(ctx.recorded_nodes().empty());
}

TEST(Conv2dOp, ShapesThatDoNotFitAreNamed) {
  Context ctx({.device = {}, .precision = Precision::kF32, .num_threads = 1});
  const auto refused = [&](const Shape& x, const Shape& weight, const ops::Conv2dOptions& options) {
    try {
      ops::conv2d(ctx, ctx.empty(x, DType::f32), ctx.empty(weight, DType::f32), options);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInternal);
      EXPECT_THAT(error.what(), ::testing::HasSubstr(x.to_string()));
      EXPECT_THAT(error.what(), ::testing::HasSubstr(weight.to_string()));
      return true;
    }
    return false;
  };
  EXPECT_TRUE(refused({2, 8, 8, 3}, {16, 3, 3, 4}, {}));
  EXPECT_TRUE(refused({2, 8, 8, 4}, {15, 3, 3, 2}, {.groups = 2}));
  EXPECT_TRUE(refused({2, 2, 8, 4}, {16, 3, 3, 4}, {}));  // no output row
  EXPECT_TRUE(refused({2, 8, 4}, {16, 3, 3, 4}, {}));
  EXPECT_TRUE(refused({2, 8, 8, 4}, {16, 3, 3, 4}, {.stride = 0}));
  EXPECT_FALSE(refused({2, 8, 8, 4}, {16, 3, 3, 4}, {}));
}

}  // namespace
}  // namespace cohort
