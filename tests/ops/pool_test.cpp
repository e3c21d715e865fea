#include "core/ops/pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "core/ops/pointwise.h"
#include "tests/support/op_check.h"

namespace cohort {
namespace {

using test::Leaf;
using test::Random;
using ::testing::HasSubstr;

struct PoolOp : test::OpTest {
  Random random{41};

  // A shuffled ladder of values 0.1 apart: no two are within 10 steps of a tie.
  std::vector<double> distinct(const Shape& shape) {
    std::vector<double> values(static_cast<std::size_t>(shape.count()));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = 0.1 * static_cast<double>(i) - 1;
    for (std::size_t i = values.size() - 1; i > 0; --i) {
      std::swap(values[i], values[static_cast<std::size_t>(random.integer(0, static_cast<int>(i)))]);
    }
    return values;
  }
};
COHORT_INSTANTIATE_DEVICES(PoolOp);

TEST_P(PoolOp, MaxGradient) {
  Context ctx(options());
  for (const ops::PoolOptions& options :
       {ops::PoolOptions{.size = 2, .stride = 2}, ops::PoolOptions{.size = 3, .stride = 2, .padding = 1},
        ops::PoolOptions{.size = 3, .stride = 2, .ceil_mode = true}}) {
    const Shape shape{2, 6, 5, 3};
    Leaf x(ctx, shape, distinct(shape));
    test::check_gradients(ctx, [&] { return ops::max_pool(ctx, x.tensor, options); }, {&x});
    test::check_gradients(ctx,
                          [&] {
                            return ops::add(ctx, ops::max_pool(ctx, x.tensor, options),
                                            ops::max_pool(ctx, x.tensor, options));
                          },
                          {&x});
  }
}

// All equal: the whole gradient goes to the first pixel of the window.
TEST_P(PoolOp, MaxSubgradientOfATieGoesToTheFirst) {
  Context ctx(options());
  Leaf x(ctx, {1, 2, 2, 1}, {3, 3, 3, 3});
  test::backward(ctx, [&] { return ops::max_pool(ctx, x.tensor, {.size = 2, .stride = 2}); }, {&x}, {5});
  EXPECT_EQ(x.gradient, (std::vector<double>{5, 0, 0, 0}));
}

TEST_P(PoolOp, AverageGradient) {
  Context ctx(options());
  Leaf x(ctx, {2, 6, 5, 3}, random);
  for (const bool include_pad : {true, false}) {
    for (const bool ceil_mode : {true, false}) {
      const ops::PoolOptions options{
          .size = 3, .stride = 2, .padding = 1, .ceil_mode = ceil_mode, .count_include_pad = include_pad};
      test::check_gradients(ctx, [&] { return ops::avg_pool(ctx, x.tensor, options); }, {&x});
    }
  }
  test::check_gradients(ctx, [&] { return ops::adaptive_avg_pool(ctx, x.tensor, 4, 3); }, {&x});
  test::check_gradients(ctx, [&] { return ops::adaptive_avg_pool(ctx, x.tensor, 7, 1); }, {&x});
  test::check_gradients(ctx, [&] { return ops::global_avg_pool(ctx, x.tensor); }, {&x});
  test::check_gradients(
      ctx,
      [&] { return ops::add(ctx, ops::global_avg_pool(ctx, x.tensor), ops::global_avg_pool(ctx, x.tensor)); },
      {&x});
}

// Sides as torch.nn.functional.max_pool2d gives them.
TEST_P(PoolOp, OutputSides) {
  Context ctx(options());
  const auto side = [&](int in, int size, int stride, int padding, bool ceil_mode) {
    Leaf x(ctx, {1, in, in, 1}, random);
    const ops::PoolOptions options{
        .size = size, .stride = stride, .padding = padding, .ceil_mode = ceil_mode};
    const std::int64_t out = ops::max_pool(ctx, x.tensor, options).shape[1];
    EXPECT_EQ(ops::avg_pool(ctx, x.tensor, options).shape[2], out);
    return out;
  };
  EXPECT_EQ(side(32, 2, 2, 0, false), 16);
  EXPECT_EQ(side(112, 3, 2, 1, false), 56);
  EXPECT_EQ(side(112, 3, 2, 0, false), 55);
  EXPECT_EQ(side(112, 3, 2, 0, true), 56);
  EXPECT_EQ(side(7, 2, 2, 0, false), 3);
  EXPECT_EQ(side(7, 2, 2, 0, true), 4);
  EXPECT_EQ(side(4, 2, 2, 1, true), 3);  // the fourth window would start in the padding behind the map
  EXPECT_EQ(side(5, 2, 2, 1, true), 3);
}

TEST_P(PoolOp, Values) {
  Context ctx(options());
  Leaf x(ctx, {1, 2, 3, 1}, {1, 2, 3, 4, 5, 6});
  const auto values = [&](const Tensor& y) { return test::download<double>(ctx, y); };
  EXPECT_EQ(values(ops::global_avg_pool(ctx, x.tensor)), (std::vector<double>{3.5}));
  EXPECT_EQ(ops::global_avg_pool(ctx, x.tensor).shape, (Shape{1, 1}));
  EXPECT_EQ(values(ops::adaptive_avg_pool(ctx, x.tensor, 1, 2)), (std::vector<double>{3, 4}));
  EXPECT_EQ(values(ops::avg_pool(ctx, x.tensor, {.size = 2, .stride = 2, .padding = 1})),
            (std::vector<double>{0.25, 1.25, 1, 2.75}));
  EXPECT_EQ(values(ops::avg_pool(ctx, x.tensor,
                                 {.size = 2, .stride = 2, .padding = 1, .count_include_pad = false})),
            (std::vector<double>{1, 2.5, 4, 5.5}));
  EXPECT_EQ(values(ops::max_pool(ctx, x.tensor, {.size = 2, .stride = 1})), (std::vector<double>{5, 6}));
}

TEST_P(PoolOp, WhatDoesNotFitIsNamed) {
  Context ctx(options());
  Leaf x(ctx, {1, 2, 2, 3}, random), flat(ctx, {4, 3}, random);
  EXPECT_THAT(test::refusal([&] { ops::max_pool(ctx, x.tensor, {.size = 3, .stride = 1}); }),
              HasSubstr("max_pool: input [1,2,2,3], size 3, stride 1, padding 0"));
  EXPECT_THAT(test::refusal([&] { ops::avg_pool(ctx, x.tensor, {.size = 2, .stride = 1, .padding = 2}); }),
              HasSubstr("padding 2"));
  EXPECT_THAT(test::refusal([&] { ops::avg_pool(ctx, x.tensor, {.size = 2, .stride = 0}); }),
              HasSubstr("stride 0"));
  EXPECT_THAT(test::refusal([&] { ops::global_avg_pool(ctx, flat.tensor); }),
              HasSubstr("[4,3] is not (N,H,W,C)"));
  EXPECT_THAT(test::refusal([&] { ops::adaptive_avg_pool(ctx, x.tensor, 0, 1); }), HasSubstr("output 0 x 1"));
}

}  // namespace
}  // namespace cohort
