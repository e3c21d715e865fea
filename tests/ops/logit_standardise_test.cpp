#include "core/ops/logit_standardise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/op_check.h"

namespace cohort {
namespace {

using test::Leaf;
using test::Random;

struct LogitStandardiseOp : test::OpTest {
  Random random{test::base_seed()};
};
COHORT_INSTANTIATE_DEVICES(LogitStandardiseOp);

TEST_P(LogitStandardiseOp, GradientsAgreeWithDifferences) {
  Context ctx(options());
  Leaf z(ctx, {3, 7}, random);
  for (const double factor : {1.0, 2.5}) {
    test::check_gradients(ctx, [&] { return ops::logit_standardise(ctx, z.tensor, {.factor = factor}); },
                          {&z});
  }
}

TEST_P(LogitStandardiseOp, HasMeanZeroAndTheFactorAsDeviation) {
  Context ctx(options());
  Leaf z(ctx, {2, 50}, random);
  ctx.begin_step();
  const std::vector<double> y =
      test::download<double>(ctx, ops::logit_standardise(ctx, z.tensor, {.factor = 2.5}));
  for (std::size_t row = 0; row < 2; ++row) {
    double sum = 0, squares = 0;
    for (std::size_t c = 0; c < 50; ++c) {
      sum += y[row * 50 + c];
      squares += y[row * 50 + c] * y[row * 50 + c];
    }
    EXPECT_NEAR(sum, 0, 1e-12);
    EXPECT_NEAR(std::sqrt(squares / 50), 2.5, 1e-6);
  }
}

TEST_P(LogitStandardiseOp, RefusesMaps) {
  Context ctx(options());
  EXPECT_THAT(test::refusal([&] {
                ops::logit_standardise(ctx, ctx.empty({2, 3, 4}, DType::f64));
              }),
              ::testing::HasSubstr("[2,3,4]"));
}

}  // namespace
}  // namespace cohort
