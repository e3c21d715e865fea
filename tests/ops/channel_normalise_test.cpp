#include "core/ops/channel_normalise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "core/ops/feature_l2.h"
#include "tests/support/feature_fixture.h"
#include "tests/support/op_check.h"
#include "tests/support/tolerance.h"

namespace cohort::test {
namespace {

using Values = std::vector<double>;

using OpsChannelNormalise = OpTest;
COHORT_INSTANTIATE_DEVICES(OpsChannelNormalise);

TEST_P(OpsChannelNormalise, GradientsAgreeWithDifferences) {
  Random random(base_seed());
  Context ctx(options());
  Leaf x(ctx, {2, 3, 5, 7}, random);
  check_gradients(ctx, [&] { return ops::channel_normalise(ctx, x.tensor); }, {&x});
}

// The specification's feature loss of normalised maps, through both operations.
TEST_P(OpsChannelNormalise, GoldenLossAndGradient) {
  Context ctx(options());
  const Tensor teacher = constant(ctx, {2, 1, 2, 2}, nhwc(kGoldenF1));
  const Tensor student = variable(ctx, {2, 1, 2, 2}, nhwc(kGoldenF2));
  const Tensor weight = constant(ctx, {}, Values{1});
  const Tensor value = ops::feature_l2(ctx, ops::channel_normalise(ctx, student),
                                       ops::channel_normalise(ctx, teacher), weight);
  ctx.backward();
  EXPECT_TRUE(all_near(download<double>(ctx, value), Values{0.647882}, 2e-6));
  EXPECT_TRUE(all_near(
      download<double>(ctx, ctx.grad_of(student)),
      nhwc({-0.047706, 0.238528, -0.415945, -0.103986, 0.378356, -0.504474, 0.133128, 0.099846}), 2e-6));
}

TEST_P(OpsChannelNormalise, RefusesWhatIsNoMap) {
  Context ctx(options());
  EXPECT_THAT(refusal([&] {
                ops::channel_normalise(ctx, ctx.empty({2, 3}, DType::f64));
              }),
              ::testing::HasSubstr("[2,3]"));
}

}  // namespace
}  // namespace cohort::test
