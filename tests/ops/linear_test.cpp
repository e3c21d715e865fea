#include "core/ops/linear.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "core/gradcheck.h"
#include "tests/support/random.h"

namespace cohort {
namespace {

using test::Random;

Tensor leaf(std::vector<double>& values, const Shape& shape, std::vector<double>& gradient, GradSlot& slot) {
  slot = {.data = gradient.data(), .dtype = DType::f64, .persistent = true};
  return {values.data(), shape, DType::f64, &slot};
}

TEST(LinearOp, GradientsAgreeWithDifferences) {
  Random random(test::base_seed());
  Context ctx({.device = {}, .precision = Precision::kF64, .num_threads = 2});
  std::vector<double> x = random.normals<double>(7 * 5);
  std::vector<double> weight = random.normals<double>(3 * 5);
  std::vector<double> bias = random.normals<double>(3);
  std::vector<double> grad_x(x.size()), grad_weight(weight.size()), grad_bias(bias.size());
  GradSlot slots[3];
  const Tensor x_leaf = leaf(x, {7, 5}, grad_x, slots[0]);
  const Tensor weight_leaf = leaf(weight, {3, 5}, grad_weight, slots[1]);
  const Tensor bias_leaf = leaf(bias, {3}, grad_bias, slots[2]);
  const std::vector<double> direction = random.normals<double>(7 * 3);
  const auto forward = [&] {
    ctx.begin_step();
    return ops::linear(ctx, x_leaf, weight_leaf, bias_leaf);
  };
  const GradTarget target = ctx.grad_target(forward());
  std::copy(direction.begin(), direction.end(), target.grad.as<double>());
  ctx.backward();
  const auto f = [&] {
    const Tensor y = forward();
    double sum = 0;
    for (std::size_t i = 0; i < direction.size(); ++i) sum += y.as<double>()[i] * direction[i];
    return sum;
  };
  EXPECT_EQ(gradcheck(f, x.data(), 35, grad_x), "");
  EXPECT_EQ(gradcheck(f, weight.data(), 15, grad_weight), "");
  EXPECT_EQ(gradcheck(f, bias.data(), 3, grad_bias), "");
}

// bf16 activations and weights, f32 logits and parameter gradients; small integers are exact in all of them.
TEST(LinearOp, Bf16GivesF32LogitsAndParameterGradients) {
  Random random(test::base_seed());
  Context ctx({.device = {}, .precision = Precision::kBF16, .num_threads = 2});
  const std::int64_t n = 33, c = 17, k = 10;
  std::vector<bf16> x = random.integers<bf16>(n * c, -2, 2);
  std::vector<bf16> weight = random.integers<bf16>(k * c, -2, 2);
  std::vector<float> bias = random.integers<float>(k, -2, 2);
  std::vector<bf16> grad_x(n * c);
  std::vector<float> grad_weight(k * c), grad_bias(k);
  GradSlot x_slot{.data = grad_x.data(), .dtype = DType::bf16, .persistent = true};
  GradSlot weight_slot{.data = grad_weight.data(), .dtype = DType::f32, .persistent = true};
  GradSlot bias_slot{.data = grad_bias.data(), .dtype = DType::f32, .persistent = true};
  const Tensor y = ops::linear(ctx, {x.data(), {n, c}, DType::bf16, &x_slot},
                               {weight.data(), {k, c}, DType::bf16, &weight_slot},
                               {bias.data(), {k}, DType::f32, &bias_slot});
  ASSERT_EQ(y.dtype, DType::f32);
  const std::vector<float> g = random.integers<float>(n * k, -2, 2);
  std::copy(g.begin(), g.end(), ctx.grad_target(y).grad.as<float>());
  ctx.backward();
  std::vector<float> wanted_x(n * c), wanted_weight(k * c), wanted_bias(k);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < k; ++j) {
      float sum = bias[j];
      for (std::int64_t p = 0; p < c; ++p) {
        sum += static_cast<float>(x[i * c + p]) * static_cast<float>(weight[j * c + p]);
        wanted_x[i * c + p] += g[i * k + j] * static_cast<float>(weight[j * c + p]);
        wanted_weight[j * c + p] += g[i * k + j] * static_cast<float>(x[i * c + p]);
      }
      EXPECT_EQ(y.as<float>()[i * k + j], sum);
      wanted_bias[j] += g[i * k + j];
    }
  }
  for (std::int64_t i = 0; i < n * c; ++i) EXPECT_EQ(static_cast<float>(grad_x[i]), wanted_x[i]);
  EXPECT_EQ(grad_weight, wanted_weight);
  EXPECT_EQ(grad_bias, wanted_bias);
}

TEST(LinearOp, ShapesThatDoNotFitAreNamed) {
  Context ctx({.device = {}, .precision = Precision::kF32, .num_threads = 1});
  const Tensor x = ctx.empty({2, 3}, DType::f32);
  const auto message = [&](const Tensor& weight, const Tensor& bias) -> std::string {
    try {
      ops::linear(ctx, x, weight, bias);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message(ctx.empty({5, 4}, DType::f32), {}), ::testing::HasSubstr("[2,3] f32 vs weight [5,4]"));
  EXPECT_THAT(message(ctx.empty({5, 3}, DType::bf16), {}), ::testing::HasSubstr("bf16"));
  EXPECT_THAT(message(ctx.empty({5, 3}, DType::f32), ctx.empty({4}, DType::f32)),
              ::testing::HasSubstr("bias [4]"));
  EXPECT_EQ(message(ctx.empty({5, 3}, DType::f32), {}), "");
}

}  // namespace
}  // namespace cohort
