#include "core/ops/batch_norm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/ops/pointwise.h"
#include "tests/support/op_check.h"
#include "tests/support/tolerance.h"

namespace cohort {
namespace {

using test::Leaf;
using test::Random;
using ::testing::HasSubstr;

constexpr double kMargin = 0.02;  // distance to the kink of the ReLU: far more than 10 steps of 1e-3 allow

struct Network {
  Network(const Shape& s, std::uint64_t seed) : Network(s, Random(seed)) {}
  Network(const Shape& s, Random random)
      : shape(s),
        channels(s[s.rank() - 1]),
        x(s, random),
        residual(s, random),
        gamma({channels}, random.uniforms<double>(static_cast<std::size_t>(channels), 0.5, 2)),
        beta({channels}, random),
        running_mean(random.normals<double>(static_cast<std::size_t>(channels))),
        running_var(random.uniforms<double>(static_cast<std::size_t>(channels), 0.5, 2)) {}

  ops::BatchNormParameters parameters() {
    return {gamma.tensor,
            beta.tensor,
            {running_mean.data(), {channels}, DType::f64, nullptr},
            {running_var.data(), {channels}, DType::f64, nullptr}};
  }

  // Moves the residual until no result of the ReLU is near its kink.
  void avoid_kinks(Context& ctx, const ops::BatchNormOptions& options) {
    ops::BatchNormOptions linear = options;
    linear.relu = false;
    const Tensor z = ops::batch_norm(ctx, x.tensor, parameters(), linear, residual.tensor);
    for (std::size_t i = 0; i < residual.values.size(); ++i) {
      const double v = z.as<double>()[i];
      if (std::abs(v) < kMargin) residual.values[i] += v < 0 ? -kMargin : kMargin;
    }
  }

  Shape shape;
  std::int64_t channels;
  Leaf x, residual, gamma, beta;
  std::vector<double> running_mean, running_var;
};

// Differences of a batch in which only the first images count: the others' gradients are 0 and so is their
// result.
TEST(BatchNormOp, PaddingOfAShortBatchCountsForNothing) {
  std::uint64_t seed = 100;
  for (const std::int32_t valid : {5, 3, 2}) {
    for (const bool relu : {false, true}) {
      SCOPED_TRACE(::testing::Message() << valid << " of 5 images, relu " << relu);
      Context ctx = test::double_context();
      const Tensor count = ctx.persistent_tensor({}, DType::i32);
      ctx.upload(count, &valid);
      ctx.set_valid_images(count);
      Network net(Shape{5, 2, 3, 4}, ++seed);
      const ops::BatchNormOptions options{.relu = relu};
      net.avoid_kinks(ctx, options);
      const auto forward = [&] {
        return ops::batch_norm(ctx, net.x.tensor, net.parameters(), options, net.residual.tensor);
      };
      test::check_gradients(ctx, forward, {&net.x, &net.residual, &net.gamma, &net.beta});
      const Tensor y = forward();
      for (std::int64_t i = valid * 24; i < 5 * 24; ++i) EXPECT_EQ(y.as<double>()[i], 0) << i;
    }
  }
}

TEST(BatchNormOp, GradientsAgreeWithDifferences) {
  Context ctx = test::double_context();
  std::uint64_t seed = 0;
  for (const bool training : {true, false}) {
    for (const bool relu : {false, true}) {
      for (const Shape& shape : {Shape{2, 3, 5, 4}, Shape{7, 3}, Shape{3, 1, 2, 17}}) {
        SCOPED_TRACE(::testing::Message()
                     << shape.to_string() << " training " << training << " relu " << relu);
        Network net(shape, ++seed);
        const ops::BatchNormOptions options{.training = training, .relu = relu};
        net.avoid_kinks(ctx, options);
        test::check_gradients(ctx,
                              [&] {
                                return ops::batch_norm(ctx, net.x.tensor, net.parameters(), options,
                                                       net.residual.tensor);
                              },
                              {&net.x, &net.residual, &net.gamma, &net.beta});
        if (relu)
          continue;  // without a residual no kink can be avoided: relu(bn) is checked through add below
        test::check_gradients(ctx,
                              [&] { return ops::batch_norm(ctx, net.x.tensor, net.parameters(), options); },
                              {&net.x, &net.gamma, &net.beta});
      }
    }
  }
}

// Intermediate results own no gradient buffer: they take over the one of the result, masked in place. Leaves
// cannot.
TEST(BatchNormOp, GradientsAgreeWhereBuffersAreTakenOver) {
  Context ctx = test::double_context();
  for (const bool training : {true, false}) {
    for (const bool relu : {false, true}) {
      SCOPED_TRACE(::testing::Message() << "training " << training << " relu " << relu);
      Network net({2, 3, 3, 5}, 21);
      const ops::BatchNormOptions options{.training = training, .relu = relu};
      net.avoid_kinks(ctx, options);
      std::vector<double> zeros(90, 0.0);
      const Tensor constant{zeros.data(), net.shape, DType::f64, nullptr};
      const auto intermediate = [&](const Leaf& leaf) { return ops::add(ctx, leaf.tensor, constant); };
      const std::vector<Leaf*> leaves{&net.x, &net.residual, &net.gamma, &net.beta};
      // Both intermediate; only x; only the residual.
      test::check_gradients(
          ctx,
          [&] {
            return ops::batch_norm(ctx, intermediate(net.x), net.parameters(), options,
                                   intermediate(net.residual));
          },
          leaves);
      test::check_gradients(
          ctx,
          [&] {
            return ops::batch_norm(ctx, intermediate(net.x), net.parameters(), options, net.residual.tensor);
          },
          leaves);
      test::check_gradients(
          ctx,
          [&] {
            return ops::batch_norm(ctx, net.x.tensor, net.parameters(), options, intermediate(net.residual));
          },
          leaves);
      // The residual is used again behind: its gradient is there before this node runs.
      test::check_gradients(
          ctx,
          [&] {
            const Tensor r = intermediate(net.residual);
            return ops::add(ctx, ops::batch_norm(ctx, intermediate(net.x), net.parameters(), options, r), r);
          },
          leaves);
      // So is x.
      test::check_gradients(
          ctx,
          [&] {
            const Tensor x = intermediate(net.x);
            return ops::add(
                ctx, ops::batch_norm(ctx, x, net.parameters(), options, intermediate(net.residual)), x);
          },
          leaves);
      // Input and residual are one tensor: y = bn(x) + x.
      const ops::BatchNormOptions linear{.training = training};
      test::check_gradients(ctx,
                            [&] {
                              const Tensor x = intermediate(net.x);
                              return ops::batch_norm(ctx, x, net.parameters(), linear, x);
                            },
                            {&net.x, &net.gamma, &net.beta});
      test::check_gradients(
          ctx, [&] { return ops::batch_norm(ctx, net.x.tensor, net.parameters(), linear, net.x.tensor); },
          {&net.x, &net.gamma, &net.beta});
    }
  }
}

TEST(BatchNormOp, ASharedParameterCollectsBothGradients) {
  Context ctx = test::double_context();
  Network net({4, 2, 2, 3}, 22);
  test::check_gradients(ctx,
                        [&] {
                          const Tensor once = ops::batch_norm(ctx, net.x.tensor, net.parameters());
                          return ops::batch_norm(ctx, once, net.parameters(), {}, net.x.tensor);
                        },
                        {&net.x, &net.gamma, &net.beta});
}

// y is exactly 0 everywhere: no gradient passes.
TEST(BatchNormOp, SubgradientAtTheKinkIsZero) {
  Context ctx = test::double_context();
  Network net({4, 2, 2, 3}, 23);
  std::fill(net.gamma.values.begin(), net.gamma.values.end(), 0.0);
  std::fill(net.beta.values.begin(), net.beta.values.end(), 0.0);
  std::fill(net.residual.values.begin(), net.residual.values.end(), 0.0);
  test::backward(
      ctx,
      [&] {
        return ops::batch_norm(ctx, net.x.tensor, net.parameters(), {.relu = true}, net.residual.tensor);
      },
      {&net.x, &net.residual, &net.gamma, &net.beta}, std::vector<double>(48, 1.0));
  for (const Leaf* leaf : {&net.x, &net.residual, &net.gamma, &net.beta}) {
    for (const double g : leaf->gradient) EXPECT_EQ(g, 0.0);
  }
}

TEST(BatchNormOp, RunningStatisticsChangeInTrainingOnly) {
  Context ctx = test::double_context();
  Network net({2, 4, 4, 3}, 24);
  const auto old_mean = net.running_mean;
  const auto old_var = net.running_var;
  ctx.set_recording(false);
  ops::batch_norm(ctx, net.x.tensor, net.parameters(), {.training = false});
  EXPECT_EQ(net.running_mean, old_mean);
  EXPECT_EQ(net.running_var, old_var);
  ops::batch_norm(ctx, net.x.tensor, net.parameters(), {.momentum = 0.25});
  for (std::size_t c = 0; c < 3; ++c) {
    double mean = 0, square = 0;
    for (std::size_t i = c; i < 96; i += 3) mean += net.x.values[i] / 32;
    for (std::size_t i = c; i < 96; i += 3) square += (net.x.values[i] - mean) * (net.x.values[i] - mean);
    EXPECT_NEAR(net.running_mean[c], 0.75 * old_mean[c] + 0.25 * mean, 1e-15);
    EXPECT_NEAR(net.running_var[c], 0.75 * old_var[c] + 0.25 * square / 31, 1e-15);  // unbiased
  }
  ops::BatchNormParameters without = net.parameters();
  without.running_mean = without.running_var = {};
  const Tensor y = ops::batch_norm(ctx, net.x.tensor, without);
  EXPECT_EQ(y.grad, nullptr);
  EXPECT_TRUE(ctx.recorded_nodes().empty());
}

// bf16 activations with f32 parameters: the gradients of the fused node are those of the f32 one on the same
// values, within the rounding of its bf16 results.
TEST(BatchNormOp, Bf16AgreesWithF32) {
  Random random(25);
  const Shape shape{8, 4, 4, 16};
  const auto count = static_cast<std::size_t>(shape.count());
  std::vector<bf16> x = random.normals<bf16>(count);
  std::vector<bf16> direction = random.normals<bf16>(count);
  std::vector<float> gamma = random.uniforms<float>(16, 0.5, 2), beta = random.normals<float>(16);
  const auto gradients = [&]<class T>(std::type_identity<T>, Precision precision) {
    Context ctx({.device = {}, .precision = precision, .num_threads = 2});
    std::vector<T> values(count), grad_x(count);
    std::vector<float> grad_gamma(16), grad_beta(16);
    for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<T>(static_cast<float>(x[i]));
    GradSlot slots[3] = {{.data = grad_x.data(), .dtype = dtype_of<T>(), .persistent = true},
                         {.data = grad_gamma.data(), .dtype = DType::f32, .persistent = true},
                         {.data = grad_beta.data(), .dtype = DType::f32, .persistent = true}};
    const Tensor y = ops::batch_norm(
        ctx, {values.data(), shape, dtype_of<T>(), &slots[0]},
        {{gamma.data(), {16}, DType::f32, &slots[1]}, {beta.data(), {16}, DType::f32, &slots[2]}, {}, {}},
        {.relu = true});
    T* const grad_y = ctx.grad_target(y).grad.template as<T>();
    for (std::size_t i = 0; i < count; ++i) grad_y[i] = static_cast<T>(static_cast<float>(direction[i]));
    ctx.backward();
    std::vector<float> all(grad_gamma);
    all.insert(all.end(), grad_beta.begin(), grad_beta.end());
    for (const T& g : grad_x) all.push_back(static_cast<float>(g));
    return all;
  };
  const auto low = gradients(std::type_identity<bf16>{}, Precision::kBF16);
  const auto full = gradients(std::type_identity<float>{}, Precision::kF32);
  EXPECT_TRUE(test::all_within(low, full, [&](std::size_t i) {
    return 0x1p-8 * std::abs(static_cast<double>(full[i])) + (i < 32 ? 1e-4 : 1e-6);
  }));
}

TEST(BatchNormOp, WhatDoesNotFitIsNamed) {
  Context ctx({.device = {}, .precision = Precision::kF32, .num_threads = 1});
  const Tensor x = ctx.empty({2, 4, 4, 3}, DType::f32);
  const Tensor three = ctx.empty({3}, DType::f32);
  const Tensor four = ctx.empty({4}, DType::f32);
  const auto message = [&](const ops::BatchNormParameters& p, const ops::BatchNormOptions& o,
                           const Tensor& residual) {
    return test::refusal([&] { ops::batch_norm(ctx, x, p, o, residual); });
  };
  EXPECT_EQ(message({three, three, three, three}, {}, {}), "");
  EXPECT_THAT(message({four, three, three, three}, {}, {}), HasSubstr("gamma [4] f32 vs input [2,4,4,3]"));
  EXPECT_THAT(message({three, ctx.empty({3}, DType::bf16), three, three}, {}, {}),
              HasSubstr("beta [3] bf16"));
  EXPECT_THAT(message({three, three, {}, {}}, {.training = false}, {}), HasSubstr("running_mean"));
  EXPECT_THAT(message({three, three, three, three}, {}, ctx.empty({2, 4, 4, 4}, DType::f32)),
              HasSubstr("residual [2,4,4,4]"));
  const Tensor one = ctx.empty({1, 1, 1, 3}, DType::f32);
  EXPECT_THAT(test::refusal([&] {
                ops::batch_norm(ctx, one, {three, three, three, three});
              }),
              HasSubstr("two values per channel"));
}

}  // namespace
}  // namespace cohort
