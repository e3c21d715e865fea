#include "core/ops/pointwise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/op_check.h"

namespace cohort {
namespace {

using test::Leaf;
using test::Random;
using ::testing::HasSubstr;

struct PointwiseOp : test::OpTest {
  Random random{31};
};
COHORT_INSTANTIATE_DEVICES(PointwiseOp);

// A result of the tape, which can take over a gradient buffer; a leaf cannot.
Tensor intermediate(const Leaf& leaf) {
  const Shape& shape = leaf.tensor.shape;
  const auto count = static_cast<std::size_t>(shape.count());
  return ops::add(leaf.ctx, leaf.tensor, test::constant(leaf.ctx, shape, std::vector<double>(count)));
}

TEST_P(PointwiseOp, ReluGradient) {
  Context ctx(options());
  Leaf x(ctx, {3, 7, 5}, random);
  for (double& v : x.values) v += v < 0 ? -0.02 : 0.02;  // away from the kink
  test::check_gradients(ctx, [&] { return ops::relu(ctx, x.tensor); }, {&x});
  test::check_gradients(ctx, [&] { return ops::relu(ctx, intermediate(x)); }, {&x});
  test::check_gradients(ctx,
                        [&] {
                          const Tensor t = intermediate(x);
                          return ops::add(ctx, t, ops::relu(ctx, t));
                        },
                        {&x});
}

TEST_P(PointwiseOp, ReluSubgradientAtTheKinkIsZero) {
  Context ctx(options());
  Leaf x(ctx, {4}, {0.0, -0.0, 1.0, -1.0});
  test::backward(ctx, [&] { return ops::relu(ctx, x.tensor); }, {&x}, {1, 1, 1, 1});
  EXPECT_EQ(x.gradient, (std::vector<double>{0, 0, 1, 0}));
}

TEST_P(PointwiseOp, LeakyReluAndSigmoidGradients) {
  Context ctx(options());
  Leaf x(ctx, {3, 7, 5}, random);
  for (double& v : x.values) v += v < 0 ? -0.02 : 0.02;  // away from the kink
  test::check_gradients(ctx, [&] { return ops::leaky_relu(ctx, x.tensor); }, {&x});
  test::check_gradients(ctx, [&] { return ops::sigmoid(ctx, x.tensor); }, {&x});
  // In place of the gradient that they consume, and into one that is there already.
  const auto both = [&] {
    const Tensor t = intermediate(x);
    return ops::add(ctx, ops::sigmoid(ctx, t), ops::leaky_relu(ctx, t, 0.3));
  };
  test::check_gradients(ctx, both, {&x});
}

TEST_P(PointwiseOp, AddGradient) {
  Context ctx(options());
  Leaf a(ctx, {2, 3, 4}, random), b(ctx, {2, 3, 4}, random);
  const std::vector<Leaf*> both{&a, &b};
  test::check_gradients(
      ctx, [&] { return ops::add(ctx, a.tensor, b.tensor); }, both);
  test::check_gradients(
      ctx, [&] { return ops::add(ctx, intermediate(a), b.tensor); }, both);
  test::check_gradients(
      ctx, [&] { return ops::add(ctx, a.tensor, intermediate(b)); }, both);
  test::check_gradients(
      ctx, [&] { return ops::add(ctx, intermediate(a), intermediate(b)); }, both);
  // The same tensor twice, and one that has its gradient already.
  test::check_gradients(ctx, [&] { return ops::add(ctx, a.tensor, a.tensor); }, {&a});
  test::check_gradients(ctx,
                        [&] {
                          const Tensor t = intermediate(a);
                          return ops::add(ctx, t, t);
                        },
                        {&a});
  test::check_gradients(
      ctx,
      [&] {
        const Tensor s = intermediate(a), t = intermediate(b);
        return ops::add(ctx, ops::add(ctx, s, t), ops::relu(ctx, s));
      },
      both);
}

// One operand copies the gradient, the other takes over its buffer.
TEST_P(PointwiseOp, AddPassesItsGradientBufferOn) {
  Context ctx(options());
  Leaf a(ctx, {5}, random), b(ctx, {5}, random);
  ctx.begin_step();
  const Tensor s = intermediate(a), t = intermediate(b);
  const Tensor y = ops::add(ctx, s, t);
  void* const buffer = ctx.grad_target(y).grad.data;
  ASSERT_EQ(ctx.recorded_nodes().size(), 3U);
  const_cast<Node*>(ctx.recorded_nodes()[2])->backward(ctx);
  EXPECT_TRUE((s.grad->data == buffer) != (t.grad->data == buffer));
}

TEST_P(PointwiseOp, ShortcutAGradient) {
  Context ctx(options());
  Leaf x(ctx, {2, 5, 4, 3}, random);
  test::check_gradients(ctx, [&] { return ops::shortcut_a(ctx, x.tensor, 2, 8); }, {&x});
  test::check_gradients(ctx,
                        [&] {
                          const Tensor t = intermediate(x);
                          return ops::add(ctx, ops::shortcut_a(ctx, t, 2, 5), ops::shortcut_a(ctx, t, 2, 5));
                        },
                        {&x});
}

TEST_P(PointwiseOp, ShortcutAPadsBothSides) {
  Context ctx(options());
  Leaf x(ctx, {1, 2, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8});
  const Tensor y = ops::shortcut_a(ctx, x.tensor, 2, 4);
  ASSERT_EQ(y.shape, (Shape{1, 1, 1, 4}));
  EXPECT_EQ(test::download<double>(ctx, y), (std::vector<double>{0, 1, 2, 0}));
  EXPECT_EQ(ops::shortcut_a(ctx, x.tensor, 1, 2).data, x.tensor.data);
}

TEST_P(PointwiseOp, EvaluationRecordsNothing) {
  Context ctx(options());
  ctx.set_recording(false);
  Leaf x(ctx, {1, 2, 2, 2}, random);
  ops::add(ctx, ops::relu(ctx, x.tensor), x.tensor);
  ops::shortcut_a(ctx, x.tensor, 2, 4);
  EXPECT_TRUE(ctx.recorded_nodes().empty());
}

TEST_P(PointwiseOp, ShapesThatDoNotFitAreNamed) {
  Context ctx(options());
  Leaf a(ctx, {2, 3}, random), b(ctx, {3, 2}, random);
  EXPECT_THAT(test::refusal([&] { ops::add(ctx, a.tensor, b.tensor); }),
              HasSubstr("add: [2,3] f64 vs [3,2]"));
  EXPECT_THAT(test::refusal([&] { ops::shortcut_a(ctx, a.tensor, 2, 4); }),
              HasSubstr("shortcut_a: input [2,3]"));
  Leaf x(ctx, {1, 2, 2, 4}, random);
  EXPECT_THAT(test::refusal([&] { ops::shortcut_a(ctx, x.tensor, 2, 3); }), HasSubstr("channels 3"));
}

}  // namespace
}  // namespace cohort
