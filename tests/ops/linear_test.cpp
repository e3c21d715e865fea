#include "core/ops/linear.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/support/op_check.h"

namespace cohort {
namespace {

using test::Leaf;
using test::LeafOf;
using test::Random;

using LinearOp = test::OpTest;
COHORT_INSTANTIATE_DEVICES(LinearOp);

TEST_P(LinearOp, GradientsAgreeWithDifferences) {
  Random random(test::base_seed());
  Context ctx(options());
  Leaf x(ctx, {7, 5}, random), weight(ctx, {3, 5}, random), bias(ctx, {3}, random);
  test::check_gradients(ctx, [&] { return ops::linear(ctx, x.tensor, weight.tensor, bias.tensor); },
                        {&x, &weight, &bias});
  test::check_gradients(ctx, [&] { return ops::linear(ctx, x.tensor, weight.tensor, {}); }, {&x, &weight});
}

// bf16 activations and weights, f32 logits and parameter gradients; small integers are exact in all of them.
TEST_P(LinearOp, Bf16GivesF32LogitsAndParameterGradients) {
  Random random(test::base_seed());
  Context ctx(options(Precision::kBF16));
  const std::int64_t n = 33, c = 17, k = 10;
  LeafOf<bf16> x(ctx, {n, c}, random.integers<bf16>(n * c, -2, 2));
  LeafOf<bf16, float> weight(ctx, {k, c}, random.integers<bf16>(k * c, -2, 2));
  LeafOf<float> bias(ctx, {k}, random.integers<float>(k, -2, 2));
  const Tensor y = ops::linear(ctx, x.tensor, weight.tensor, bias.tensor);
  ASSERT_EQ(y.dtype, DType::f32);
  const std::vector<float> logits = test::download<float>(ctx, y);
  const std::vector<float> g = random.integers<float>(n * k, -2, 2);
  test::seed_gradient(ctx, y, g);
  ctx.backward();
  x.download();
  weight.download();
  bias.download();
  std::vector<float> wanted_x(n * c), wanted_weight(k * c), wanted_bias(k);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < k; ++j) {
      float sum = bias.values[j];
      for (std::int64_t p = 0; p < c; ++p) {
        sum += static_cast<float>(x.values[i * c + p]) * static_cast<float>(weight.values[j * c + p]);
        wanted_x[i * c + p] += g[i * k + j] * static_cast<float>(weight.values[j * c + p]);
        wanted_weight[j * c + p] += g[i * k + j] * static_cast<float>(x.values[i * c + p]);
      }
      EXPECT_EQ(logits[i * k + j], sum);
      wanted_bias[j] += g[i * k + j];
    }
  }
  for (std::int64_t i = 0; i < n * c; ++i) EXPECT_EQ(static_cast<float>(x.gradient[i]), wanted_x[i]);
  EXPECT_EQ(weight.gradient, wanted_weight);
  EXPECT_EQ(bias.gradient, wanted_bias);
}

TEST_P(LinearOp, ShapesThatDoNotFitAreNamed) {
  Context ctx(options(Precision::kF32));
  const Tensor x = ctx.empty({2, 3}, DType::f32);
  const auto message = [&](const Tensor& weight, const Tensor& bias) {
    return test::refusal([&] { ops::linear(ctx, x, weight, bias); });
  };
  EXPECT_THAT(message(ctx.empty({5, 4}, DType::f32), {}), ::testing::HasSubstr("[2,3] f32 vs weight [5,4]"));
  EXPECT_THAT(message(ctx.empty({5, 3}, DType::bf16), {}), ::testing::HasSubstr("bf16"));
  EXPECT_THAT(message(ctx.empty({5, 3}, DType::f32), ctx.empty({4}, DType::f32)),
              ::testing::HasSubstr("bias [4]"));
  EXPECT_EQ(message(ctx.empty({5, 3}, DType::f32), {}), "");
}

}  // namespace
}  // namespace cohort
