#include "core/ops/channel_concat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/ops/pointwise.h"
#include "tests/support/op_check.h"

namespace cohort {
namespace {

using test::Leaf;
using test::Random;
using ::testing::HasSubstr;

struct ChannelConcatOp : test::OpTest {
  Random random{47};
};
COHORT_INSTANTIATE_DEVICES(ChannelConcatOp);

TEST_P(ChannelConcatOp, Values) {
  Context ctx(options());
  Leaf a(ctx, {1, 1, 2, 2}, {1, 2, 3, 4}), b(ctx, {1, 1, 2, 4}, {10, 20, 30, 40, 50, 60, 70, 80});
  const auto values = [&](const Tensor& t) { return test::download<double>(ctx, t); };
  using Doubles = std::vector<double>;
  EXPECT_EQ(values(ops::channel_concat(ctx, {a.tensor}, {b.tensor})),
            (Doubles{1, 2, 10, 20, 30, 40, 3, 4, 50, 60, 70, 80}));
  EXPECT_EQ(values(ops::channel_concat(ctx, {a.tensor}, {b.tensor, 1, 2}, 2)),
            (Doubles{1, 20, 2, 30, 3, 60, 4, 70}));
  EXPECT_EQ(values(ops::channel_shuffle(ctx, b.tensor, 2)), (Doubles{10, 30, 20, 40, 50, 70, 60, 80}));
  EXPECT_EQ(values(ops::channel_slice(ctx, {b.tensor, 3})), (Doubles{40, 80}));
  EXPECT_EQ(ops::channel_shuffle(ctx, b.tensor, 1).data, b.tensor.data);
}

TEST_P(ChannelConcatOp, Gradients) {
  Context ctx(options());
  Leaf a(ctx, {2, 3, 2, 5}, random), b(ctx, {2, 3, 2, 7}, random);
  test::check_gradients(ctx, [&] { return ops::channel_concat(ctx, {a.tensor}, {b.tensor}, 3); }, {&a, &b});
  test::check_gradients(ctx,
                        [&] {
                          return ops::channel_concat(ctx, {b.tensor, 2, 4}, {a.tensor, 1}, 2);
                        },
                        {&a, &b});
  test::check_gradients(ctx, [&] { return ops::channel_shuffle(ctx, b.tensor, 7); }, {&b});
}

// A block of ShuffleNet: one half of a map passes, the other goes another way; both gradients meet.
TEST_P(ChannelConcatOp, HalvesOfOneMapAddUp) {
  Context ctx(options());
  Leaf x(ctx, {2, 2, 3, 8}, random);
  test::check_gradients(ctx,
                        [&] {
                          const Tensor t = ops::add(ctx, x.tensor, x.tensor);
                          const Tensor half = ops::channel_slice(ctx, {t, 4, 4});
                          return ops::channel_concat(ctx, {t, 0, 4}, {ops::add(ctx, half, half)}, 2);
                        },
                        {&x});
  test::check_gradients(ctx,
                        [&] {
                          return ops::channel_concat(ctx, {x.tensor, 0, 5}, {x.tensor, 3, 4}, 3);
                        },
                        {&x});
}

TEST_P(ChannelConcatOp, ShapesThatDoNotFitAreNamed) {
  Context ctx(options());
  Leaf a(ctx, {1, 2, 2, 4}, random), b(ctx, {1, 2, 3, 4}, random);
  EXPECT_THAT(test::refusal([&] { ops::channel_concat(ctx, {a.tensor}, {b.tensor}); }),
              HasSubstr("channel_concat: [1,2,2,4] f64 beside [1,2,3,4]"));
  EXPECT_THAT(test::refusal([&] { ops::channel_shuffle(ctx, a.tensor, 3); }),
              HasSubstr("4 channels in 3 groups"));
  EXPECT_THAT(test::refusal([&] {
                ops::channel_slice(ctx, {a.tensor, 2, 3});
              }),
              HasSubstr("channel_slice: 3 channels from 2"));
}

}  // namespace
}  // namespace cohort
