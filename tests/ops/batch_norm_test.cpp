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
  Network(Context& context, const Shape& s, std::uint64_t seed) : Network(context, s, Random(seed)) {}
  Network(Context& context, const Shape& s, Random random)
      : ctx(context),
        shape(s),
        channels(s[s.rank() - 1]),
        x(ctx, s, random),
        residual(ctx, s, random),
        gamma(ctx, {channels}, random.uniforms<double>(static_cast<std::size_t>(channels), 0.5, 2)),
        beta(ctx, {channels}, random),
        running_mean(test::kept(ctx, {channels}, random.normals<double>(static_cast<std::size_t>(channels)))),
        running_var(test::kept(ctx, {channels},
                               random.uniforms<double>(static_cast<std::size_t>(channels), 0.5, 2))) {}

  ops::BatchNormParameters parameters() { return {gamma.tensor, beta.tensor, running_mean, running_var}; }

  // Moves the residual until no result of the ReLU is near its kink.
  void avoid_kinks(const ops::BatchNormOptions& options) {
    ops::BatchNormOptions linear = options;
    linear.relu = false;
    const std::vector<double> z =
        test::download<double>(ctx, ops::batch_norm(ctx, x.tensor, parameters(), linear, residual.tensor));
    for (std::size_t i = 0; i < residual.values.size(); ++i) {
      if (std::abs(z[i]) < kMargin) residual.values[i] += z[i] < 0 ? -kMargin : kMargin;
    }
  }

  Context& ctx;
  Shape shape;
  std::int64_t channels;
  Leaf x, residual, gamma, beta;
  Tensor running_mean, running_var;
};

using BatchNormOp = test::OpTest;
COHORT_INSTANTIATE_DEVICES(BatchNormOp);

// Differences of a batch in which only the first images count: the others' gradients are 0 and so is their
// result.
TEST_P(BatchNormOp, PaddingOfAShortBatchCountsForNothing) {
  std::uint64_t seed = 100;
  for (const std::int32_t valid : {5, 3, 2}) {
    for (const bool relu : {false, true}) {
      SCOPED_TRACE(::testing::Message() << valid << " of 5 images, relu " << relu);
      Context ctx(options());
      const Tensor count = ctx.persistent_tensor({}, DType::i32);
      ctx.upload(count, &valid);
      ctx.set_valid_images(count);
      Network net(ctx, Shape{5, 2, 3, 4}, ++seed);
      const ops::BatchNormOptions bn{.relu = relu};
      net.avoid_kinks(bn);
      const auto forward = [&] {
        return ops::batch_norm(ctx, net.x.tensor, net.parameters(), bn, net.residual.tensor);
      };
      test::check_gradients(ctx, forward, {&net.x, &net.residual, &net.gamma, &net.beta});
      const std::vector<double> y = test::download<double>(ctx, forward());
      for (std::size_t i = static_cast<std::size_t>(valid) * 24; i < y.size(); ++i) EXPECT_EQ(y[i], 0) << i;
    }
  }
}

TEST_P(BatchNormOp, GradientsAgreeWithDifferences) {
  Context ctx(options());
  std::uint64_t seed = 0;
  for (const bool training : {true, false}) {
    for (const bool relu : {false, true}) {
      for (const Shape& shape : {Shape{2, 3, 5, 4}, Shape{7, 3}, Shape{3, 1, 2, 17}}) {
        SCOPED_TRACE(::testing::Message()
                     << shape.to_string() << " training " << training << " relu " << relu);
        Network net(ctx, shape, ++seed);
        const ops::BatchNormOptions bn{.training = training, .relu = relu};
        net.avoid_kinks(bn);
        test::check_gradients(
            ctx,
            [&] { return ops::batch_norm(ctx, net.x.tensor, net.parameters(), bn, net.residual.tensor); },
            {&net.x, &net.residual, &net.gamma, &net.beta});
        if (relu)
          continue;  // without a residual no kink can be avoided: relu(bn) is checked through add below
        test::check_gradients(ctx, [&] { return ops::batch_norm(ctx, net.x.tensor, net.parameters(), bn); },
                              {&net.x, &net.gamma, &net.beta});
      }
    }
  }
}

// Intermediate results own no gradient buffer: they take over the one of the result, masked in place. Leaves
// cannot.
TEST_P(BatchNormOp, GradientsAgreeWhereBuffersAreTakenOver) {
  Context ctx(options());
  for (const bool training : {true, false}) {
    for (const bool relu : {false, true}) {
      SCOPED_TRACE(::testing::Message() << "training " << training << " relu " << relu);
      Network net(ctx, {2, 3, 3, 5}, 21);
      const ops::BatchNormOptions bn{.training = training, .relu = relu};
      net.avoid_kinks(bn);
      const Tensor zeros = test::kept(ctx, net.shape, std::vector<double>(90));
      const auto intermediate = [&](const Leaf& leaf) { return ops::add(ctx, leaf.tensor, zeros); };
      const std::vector<Leaf*> leaves{&net.x, &net.residual, &net.gamma, &net.beta};
      // Both intermediate; only x; only the residual.
      test::check_gradients(
          ctx,
          [&] {
            return ops::batch_norm(ctx, intermediate(net.x), net.parameters(), bn,
                                   intermediate(net.residual));
          },
          leaves);
      test::check_gradients(
          ctx,
          [&] {
            return ops::batch_norm(ctx, intermediate(net.x), net.parameters(), bn, net.residual.tensor);
          },
          leaves);
      test::check_gradients(
          ctx,
          [&] {
            return ops::batch_norm(ctx, net.x.tensor, net.parameters(), bn, intermediate(net.residual));
          },
          leaves);
      // The residual is used again behind: its gradient is there before this node runs.
      test::check_gradients(
          ctx,
          [&] {
            const Tensor r = intermediate(net.residual);
            return ops::add(ctx, ops::batch_norm(ctx, intermediate(net.x), net.parameters(), bn, r), r);
          },
          leaves);
      // So is x.
      test::check_gradients(
          ctx,
          [&] {
            const Tensor x = intermediate(net.x);
            return ops::add(ctx, ops::batch_norm(ctx, x, net.parameters(), bn, intermediate(net.residual)),
                            x);
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

TEST_P(BatchNormOp, ASharedParameterCollectsBothGradients) {
  Context ctx(options());
  Network net(ctx, {4, 2, 2, 3}, 22);
  test::check_gradients(ctx,
                        [&] {
                          const Tensor once = ops::batch_norm(ctx, net.x.tensor, net.parameters());
                          return ops::batch_norm(ctx, once, net.parameters(), {}, net.x.tensor);
                        },
                        {&net.x, &net.gamma, &net.beta});
}

// y is exactly 0 everywhere: no gradient passes.
TEST_P(BatchNormOp, SubgradientAtTheKinkIsZero) {
  Context ctx(options());
  Network net(ctx, {4, 2, 2, 3}, 23);
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

TEST_P(BatchNormOp, RunningStatisticsChangeInTrainingOnly) {
  Context ctx(options());
  Network net(ctx, {2, 4, 4, 3}, 24);
  const auto values = [&](const Tensor& t) { return test::download<double>(ctx, t); };
  const auto old_mean = values(net.running_mean);
  const auto old_var = values(net.running_var);
  ctx.set_recording(false);
  ops::batch_norm(ctx, net.x.tensor, net.parameters(), {.training = false});
  EXPECT_EQ(values(net.running_mean), old_mean);
  EXPECT_EQ(values(net.running_var), old_var);
  ops::batch_norm(ctx, net.x.tensor, net.parameters(), {.momentum = 0.25});
  const auto new_mean = values(net.running_mean);
  const auto new_var = values(net.running_var);
  for (std::size_t c = 0; c < 3; ++c) {
    double mean = 0, square = 0;
    for (std::size_t i = c; i < 96; i += 3) mean += net.x.values[i] / 32;
    for (std::size_t i = c; i < 96; i += 3) square += (net.x.values[i] - mean) * (net.x.values[i] - mean);
    EXPECT_NEAR(new_mean[c], 0.75 * old_mean[c] + 0.25 * mean, 1e-14);
    EXPECT_NEAR(new_var[c], 0.75 * old_var[c] + 0.25 * square / 31, 1e-14);  // unbiased
  }
  ops::BatchNormParameters without = net.parameters();
  without.running_mean = without.running_var = {};
  const Tensor y = ops::batch_norm(ctx, net.x.tensor, without);
  EXPECT_EQ(y.grad, nullptr);
  EXPECT_TRUE(ctx.recorded_nodes().empty());
}

// bf16 activations with f32 parameters: the gradients of the fused node are those of the f32 one on the same
// values, within the rounding of its bf16 results.
TEST_P(BatchNormOp, Bf16AgreesWithF32) {
  Random random(25);
  const Shape shape{8, 4, 4, 16};
  const auto count = static_cast<std::size_t>(shape.count());
  std::vector<bf16> x = random.normals<bf16>(count);
  std::vector<bf16> direction = random.normals<bf16>(count);
  std::vector<float> gamma = random.uniforms<float>(16, 0.5, 2), beta = random.normals<float>(16);
  const auto gradients = [&]<class T>(std::type_identity<T>, Precision precision) {
    Context ctx(options(precision));
    const auto converted = [](const auto& values) {
      std::vector<T> out;
      for (const auto& v : values) out.push_back(static_cast<T>(static_cast<float>(v)));
      return out;
    };
    test::LeafOf<T> input(ctx, shape, converted(x));
    test::LeafOf<float> scale(ctx, {16}, gamma), shift(ctx, {16}, beta);
    const Tensor y = ops::batch_norm(ctx, input.tensor, {scale.tensor, shift.tensor, {}, {}}, {.relu = true});
    test::seed_gradient(ctx, y, converted(direction));
    ctx.backward();
    input.download();
    scale.download();
    shift.download();
    std::vector<float> all(scale.gradient);
    all.insert(all.end(), shift.gradient.begin(), shift.gradient.end());
    for (const T& g : input.gradient) all.push_back(static_cast<float>(g));
    return all;
  };
  const auto low = gradients(std::type_identity<bf16>{}, Precision::kBF16);
  const auto full = gradients(std::type_identity<float>{}, Precision::kF32);
  EXPECT_TRUE(test::all_within(low, full, [&](std::size_t i) {
    return 0x1p-8 * std::abs(static_cast<double>(full[i])) + (i < 32 ? 1e-4 : 1e-6);
  }));
}

TEST_P(BatchNormOp, WhatDoesNotFitIsNamed) {
  Context ctx(options(Precision::kF32));
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
