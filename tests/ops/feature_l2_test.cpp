#include "core/ops/feature_l2.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/ops/loss_select.h"
#include "tests/support/feature_fixture.h"
#include "tests/support/op_check.h"
#include "tests/support/tolerance.h"

namespace cohort::test {
namespace {

using Values = std::vector<double>;

using OpsFeatureL2 = OpTest;
COHORT_INSTANTIATE_DEVICES(OpsFeatureL2);

TEST_P(OpsFeatureL2, GoldenValueGradientAndLoss) {
  Context ctx(options());
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

TEST_P(OpsFeatureL2, GradientsAgreeWithDifferences) {
  Random random(base_seed());
  for (const auto reduction : {kernels::FeatureReduction::kMean, kernels::FeatureReduction::kSumOverBatch}) {
    Context ctx(options());
    Leaf student(ctx, {3, 2, 5, 7}, random), teacher(ctx, {3, 2, 5, 7}, random);
    const Tensor weight = kept(ctx, {}, Values{0.7});
    const auto weighted = [&] {
      const Tensor loss = constant(ctx, {}, Values{0});
      ops::feature_l2(ctx, student.tensor, teacher.tensor, weight, {.reduction = reduction, .loss = loss});
      return loss;
    };
    check_loss_gradients(ctx, weighted, {&student});
    EXPECT_FALSE(teacher.slot.written);
  }
}

TEST_P(OpsFeatureL2, MismatchIsNamed) {
  Context ctx(options());
  const Tensor a = constant(ctx, {2, 1, 2, 2}, Values(8));
  const Tensor b = constant(ctx, {2, 2, 2, 1}, Values(8));
  const Tensor weight = constant(ctx, {}, Values{1});
  EXPECT_EQ(refusal([&] { ops::feature_l2(ctx, a, b, weight); }),
            "feature_l2: student [2,1,2,2] f64 vs teacher [2,2,2,1] f64");
}

}  // namespace
}  // namespace cohort::test
