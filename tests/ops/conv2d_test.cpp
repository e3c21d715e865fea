#include "core/ops/conv2d.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/support/op_check.h"

namespace cohort {
namespace {

using test::Leaf;
using test::Random;

struct Conv2dOp : test::OpTest {
  Random random{test::base_seed()};

  void check(const Shape& x_shape, const Shape& weight_shape, const ops::Conv2dOptions& conv) {
    Context ctx(options());
    Leaf x(ctx, x_shape, random), weight(ctx, weight_shape, random), bias(ctx, {weight_shape[0]}, random);
    test::check_gradients(ctx, [&] { return ops::conv2d(ctx, x.tensor, weight.tensor, conv, bias.tensor); },
                          {&x, &weight, &bias});
  }
};
COHORT_INSTANTIATE_DEVICES(Conv2dOp);

TEST_P(Conv2dOp, GradientsAgreeWithDifferences) {
  check({2, 5, 4, 3}, {4, 3, 3, 3}, {.padding = 1});
  check({2, 6, 7, 4}, {6, 3, 3, 2}, {.stride = 2, .padding = 1, .groups = 2});
  check({1, 8, 8, 2}, {2, 3, 3, 1}, {.padding = 2, .dilation = 2, .groups = 2});
  check({2, 5, 5, 3}, {5, 1, 1, 3}, {.stride = 2});
}

TEST_P(Conv2dOp, AGradientThatIsAlreadyThereIsAddedTo) {
  Context ctx(options());
  Leaf x(ctx, {2, 4, 4, 2}, random);
  Leaf weight(ctx, {2, 1, 1, 2}, random);
  const auto run = [&](int uses) {
    ctx.begin_step();
    x.slot.written = weight.slot.written = false;
    std::vector<Tensor> results;
    for (int i = 0; i < uses; ++i) results.push_back(ops::conv2d(ctx, x.tensor, weight.tensor));
    for (const Tensor& y : results) {
      test::seed_gradient(ctx, y, std::vector<double>(static_cast<std::size_t>(y.count()), 1.0));
    }
    ctx.backward();
    x.download();
    weight.download();
  };
  run(1);
  const std::vector<double> x_once = x.gradient;
  const std::vector<double> weight_once = weight.gradient;
  run(2);
  for (std::size_t i = 0; i < x_once.size(); ++i) EXPECT_EQ(x.gradient[i], 2 * x_once[i]);
  for (std::size_t i = 0; i < weight_once.size(); ++i) EXPECT_EQ(weight.gradient[i], 2 * weight_once[i]);
}

TEST_P(Conv2dOp, EvaluationRecordsNothing) {
  Context ctx(options());
  ctx.set_recording(false);
  Leaf x(ctx, {1, 4, 4, 2}, random);
  Leaf weight(ctx, {2, 3, 3, 2}, random);
  const Tensor y = ops::conv2d(ctx, x.tensor, weight.tensor, {.padding = 1});
  EXPECT_EQ(y.shape, (Shape{1, 4, 4, 2}));
  EXPECT_EQ(y.grad, nullptr);
  EXPECT_TRUE(ctx.recorded_nodes().empty());
}

TEST_P(Conv2dOp, ShapesThatDoNotFitAreNamed) {
  Context ctx(options(Precision::kF32));
  const auto refused = [&](const Shape& x, const Shape& weight, const ops::Conv2dOptions& conv) {
    try {
      ops::conv2d(ctx, ctx.empty(x, DType::f32), ctx.empty(weight, DType::f32), conv);
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
