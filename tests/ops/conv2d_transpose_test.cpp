#include "core/ops/conv2d_transpose.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/support/op_check.h"

namespace cohort {
namespace {

using test::Leaf;
using test::Random;

struct Conv2dTransposeOp : test::OpTest {
  Random random{test::base_seed()};
};
COHORT_INSTANTIATE_DEVICES(Conv2dTransposeOp);

// Every input pixel stamps the window, times its value, at stride times its place.
std::vector<double> stamped(const Leaf& x, const Leaf& weight, const Shape& y, int stride, int padding) {
  std::vector<double> out(static_cast<std::size_t>(y.count()));
  const Shape &in = x.tensor.shape, &w = weight.tensor.shape;
  for (std::int64_t n = 0; n < in[0]; ++n)
    for (std::int64_t p = 0; p < in[1]; ++p)
      for (std::int64_t q = 0; q < in[2]; ++q)
        for (std::int64_t k = 0; k < in[3]; ++k)
          for (std::int64_t r = 0; r < w[1]; ++r)
            for (std::int64_t s = 0; s < w[2]; ++s)
              for (std::int64_t c = 0; c < w[3]; ++c) {
                const std::int64_t h = p * stride - padding + r, v = q * stride - padding + s;
                if (h < 0 || h >= y[1] || v < 0 || v >= y[2]) continue;
                out[static_cast<std::size_t>(((n * y[1] + h) * y[2] + v) * y[3] + c)] +=
                    x.values[static_cast<std::size_t>(((n * in[1] + p) * in[2] + q) * in[3] + k)] *
                    weight.values[static_cast<std::size_t>(((k * w[1] + r) * w[2] + s) * w[3] + c)];
              }
  return out;
}

TEST_P(Conv2dTransposeOp, StampsItsWindow) {
  Context ctx(options());
  Leaf x(ctx, {2, 3, 2, 5}, random), weight(ctx, {5, 4, 4, 3}, random);
  ctx.begin_step();
  const Tensor y = ops::conv2d_transpose(ctx, x.tensor, weight.tensor);
  EXPECT_EQ(y.shape, (Shape{2, 6, 4, 3})) << "twice the size";
  const std::vector<double> expected = stamped(x, weight, y.shape, 2, 1);
  const std::vector<double> actual = test::download<double>(ctx, y);
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-13);
}

TEST_P(Conv2dTransposeOp, GradientsAgreeWithDifferences) {
  Context ctx(options());
  const auto check = [&](const Shape& in, const Shape& window, const ops::Conv2dTransposeOptions& o) {
    Leaf x(ctx, in, random), weight(ctx, window, random);
    test::check_gradients(ctx, [&] { return ops::conv2d_transpose(ctx, x.tensor, weight.tensor, o); },
                          {&x, &weight});
  };
  check({2, 3, 2, 3}, {3, 4, 4, 2}, {});
  check({1, 2, 3, 2}, {2, 3, 3, 5}, {.stride = 1, .padding = 1});
}

TEST_P(Conv2dTransposeOp, AGradientThatIsAlreadyThereIsAddedTo) {
  Context ctx(options());
  Leaf x(ctx, {2, 2, 2, 3}, random), weight(ctx, {3, 4, 4, 2}, random);
  const auto run = [&](int uses) {
    ctx.begin_step();
    x.slot.written = weight.slot.written = false;
    std::vector<Tensor> results;
    for (int i = 0; i < uses; ++i) results.push_back(ops::conv2d_transpose(ctx, x.tensor, weight.tensor));
    for (const Tensor& y : results)
      test::seed_gradient(ctx, y, std::vector<double>(static_cast<std::size_t>(y.count()), 1.0));
    ctx.backward();
    x.download();
    weight.download();
  };
  run(1);
  const std::vector<double> x_once = x.gradient, weight_once = weight.gradient;
  run(2);
  for (std::size_t i = 0; i < x_once.size(); ++i) EXPECT_EQ(x.gradient[i], 2 * x_once[i]);
  for (std::size_t i = 0; i < weight_once.size(); ++i) EXPECT_EQ(weight.gradient[i], 2 * weight_once[i]);
}

TEST_P(Conv2dTransposeOp, ShapesThatDoNotFitAreNamed) {
  Context ctx(options(Precision::kF32));
  const auto refused = [&](const Shape& x, const Shape& weight) {
    return test::refusal(
        [&] { ops::conv2d_transpose(ctx, ctx.empty(x, DType::f32), ctx.empty(weight, DType::f32)); });
  };
  EXPECT_THAT(refused({2, 2, 2, 3}, {4, 4, 4, 2}), ::testing::HasSubstr("[4,4,4,2]"));
  EXPECT_THAT(refused({2, 1, 1, 3}, {3, 2, 2, 2}), ::testing::HasSubstr("padding 1")) << "nothing is left";
  EXPECT_EQ(refused({2, 1, 1, 3}, {3, 4, 4, 2}), "");
}

}  // namespace
}  // namespace cohort
