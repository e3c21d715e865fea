#include "core/ops/feature_l2.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/ops/loss_select.h"
#include "tests/support/feature_fixture.h"
#include "tests/support/tensors.h"
#include "tests/support/tolerance.h"

namespace cohort::test {
namespace {

using Values = std::vector<double>;

TEST(OpsFeatureL2, GoldenValueGradientAndLoss) {
  Context ctx(cpu_options(Precision::kF64));
  const Tensor teacher = variable(ctx, {2, 1, 2, 2}, nhwc(kGoldenF1));
  const Tensor student = variable(ctx, {2, 1, 2, 2}, nhwc(kGoldenF2));
  const Tensor weights = constant(ctx, {2, 2}, Values{0, 0, 1, 0});
  const Tensor loss = constant(ctx, {}, Values{10});
  const Tensor value = ops::feature_l2(ctx, student, teacher, ops::entry(weights, 1, 0), {.loss = loss});
  EXPECT_TRUE(all_near(download<double>(ctx, value), Values{0.132813}, 2e-6));
  EXPECT_TRUE(all_near(download<double>(ctx, loss), Values{10.132813}, 2e-6));
  EXPECT_TRUE(all_near(download<double>(ctx, ctx.grad_of(student)),
                       nhwc({-0.025, 0.075, -0.100, -0.025, 0.025, -0.0625, 0.150, -0.150}), 2e-6));
  EXPECT_THROW(ctx.grad_of(teacher), Error);  // detached
  EXPECT_TRUE(ctx.recorded_nodes().empty());
}

TEST(OpsFeatureL2, MismatchIsNamed) {
  Context ctx(cpu_options(Precision::kF64));
  const Tensor a = constant(ctx, {2, 1, 2, 2}, Values(8));
  const Tensor b = constant(ctx, {2, 2, 2, 1}, Values(8));
  try {
    ops::feature_l2(ctx, a, b, constant(ctx, {}, Values{1}));
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "feature_l2: student [2,1,2,2] f64 vs teacher [2,2,2,1] f64");
  }
}

}  // namespace
}  // namespace cohort::test
