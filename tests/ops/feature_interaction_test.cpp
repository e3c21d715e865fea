// Attention of pixels as AFID uses it: what it looks at (channel_summary) and how it acts (pixel_gate).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/ops/channel_concat.h"
#include "core/ops/channel_summary.h"
#include "core/ops/pixel_gate.h"
#include "tests/support/op_check.h"

namespace cohort {
namespace {

using test::Leaf;
using test::Random;
using ::testing::HasSubstr;

struct FeatureInteractionOp : test::OpTest {
  Random random{53};
};
COHORT_INSTANTIATE_DEVICES(FeatureInteractionOp);

TEST_P(FeatureInteractionOp, Values) {
  Context ctx(options());
  Leaf x(ctx, {1, 1, 2, 2}, {1, 2, 8, -4}), channels(ctx, {1, 2}, {0, 0}), pixels(ctx, {1, 1, 2, 1}, {0, 0});
  EXPECT_EQ(test::download<double>(ctx, ops::channel_summary(ctx, x.tensor, channels.tensor)),
            (std::vector<double>{0.75, 1, 1, 4}));
  EXPECT_EQ(test::download<double>(ctx, ops::pixel_gate(ctx, x.tensor, pixels.tensor)),
            (std::vector<double>{0.5, 1, 4, -2}));
}

TEST_P(FeatureInteractionOp, Gradients) {
  Context ctx(options());
  Leaf x(ctx, {2, 3, 2, 5}, random), channels(ctx, {2, 1, 1, 5}, random), pixels(ctx, {2, 3, 2, 1}, random);
  test::check_gradients(ctx, [&] { return ops::channel_summary(ctx, x.tensor, channels.tensor); },
                        {&x, &channels});
  test::check_gradients(ctx, [&] { return ops::pixel_gate(ctx, x.tensor, pixels.tensor); }, {&x, &pixels});
  // A map that is looked at and acted on.
  test::check_gradients(ctx,
                        [&] {
                          const Tensor seen = ops::channel_summary(ctx, x.tensor, channels.tensor);
                          return ops::channel_concat(ctx, {ops::pixel_gate(ctx, x.tensor, pixels.tensor)},
                                                     {seen});
                        },
                        {&x, &channels, &pixels});
}

TEST_P(FeatureInteractionOp, ShapesThatDoNotFitAreNamed) {
  Context ctx(options());
  Leaf x(ctx, {1, 2, 2, 4}, random), scores(ctx, {1, 3}, random), pixels(ctx, {1, 2, 3, 1}, random);
  EXPECT_THAT(test::refusal([&] { ops::channel_summary(ctx, x.tensor, scores.tensor); }),
              HasSubstr("channel_summary: scores [1,3] f64 for x [1,2,2,4] f64"));
  EXPECT_THAT(test::refusal([&] { ops::pixel_gate(ctx, x.tensor, pixels.tensor); }),
              HasSubstr("pixel_gate: scores [1,2,3,1] f64 for x [1,2,2,4] f64"));
}

}  // namespace
}  // namespace cohort
