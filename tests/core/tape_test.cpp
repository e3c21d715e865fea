// The tape, gradient slots and the step plan, with two tiny operations of the test's own.
#include <gtest/gtest.h>

#include "core/context.h"
#include "core/step_plan.h"

namespace cohort {
namespace {

struct ScaleNode final : Node {
  ScaleNode(const Tensor& result, const Tensor& input, float factor)
      : Node("scale", result), x(input), k(factor) {}
  Tensor x;
  float k;
  void backward(Context& ctx) override {
    const GradTarget target = ctx.grad_target(x);
    if (!target) return;
    const float* up = ctx.grad_of(y).as<float>();
    float* out = target.grad.as<float>();
    for (std::int64_t i = 0; i < y.count(); ++i) {
      out[i] = (target.mode == GradMode::kAccumulate ? out[i] : 0.0F) + k * up[i];
    }
  }
};

Tensor scale(Context& ctx, const Tensor& x, float k) {
  const Tensor y = ctx.variable(x.shape, DType::f32);
  for (std::int64_t i = 0; i < x.count(); ++i) y.as<float>()[i] = k * x.as<float>()[i];
  if (ctx.recording()) ctx.push(ScaleNode(y, x, k));
  return y;
}

struct PassNode final : Node {
  PassNode(const Tensor& result, const Tensor& input) : Node("pass", result), x(input) {}
  Tensor x;
  void backward(Context& ctx) override { handed_over = ctx.hand_over_grad(y, x); }
  static inline bool handed_over = false;
};

void seed_gradient(Context& ctx, const Tensor& t, float value) {
  const GradTarget target = ctx.grad_target(t);
  for (std::int64_t i = 0; i < t.count(); ++i) target.grad.as<float>()[i] = value;
}

Tensor input(Context& ctx, float value) {
  const Tensor x = ctx.variable({4}, DType::f32);
  for (int i = 0; i < 4; ++i) x.as<float>()[i] = value;
  return x;
}

// Down to a node and later the rest: the same gradient as in one go, and nothing is walked twice.
TEST(Tape, WalksBackInSections) {
  Context ctx({.num_threads = 1, .poison = true});
  ctx.begin_step();
  const Tensor x = input(ctx, 1.0F);
  const Tensor a = scale(ctx, x, 2.0F);
  const std::size_t below = ctx.num_recorded();
  EXPECT_EQ(below, 1U);
  const Tensor b = scale(ctx, a, 3.0F);
  seed_gradient(ctx, b, 1.0F);
  ctx.backward(below);
  EXPECT_FALSE(x.grad->written) << "not yet";
  EXPECT_EQ(ctx.grad_of(a).as<float>()[0], 3.0F);
  seed_gradient(ctx, scale(ctx, a, 0.0F), 1.0F);  // recorded later, walked before what is below
  ctx.backward();
  EXPECT_EQ(ctx.grad_of(x).as<float>()[3], 6.0F);
}

TEST(Tape, WalksBackInReverseAndAccumulates) {
  Context ctx({.num_threads = 1, .poison = true});
  ctx.begin_step();
  const Tensor x = input(ctx, 1.0F);
  const Tensor a = scale(ctx, x, 2.0F);
  const Tensor b = scale(ctx, a, 3.0F);
  const Tensor c = scale(ctx, a, 5.0F);  // a is used twice
  seed_gradient(ctx, b, 1.0F);
  seed_gradient(ctx, c, 10.0F);
  ctx.backward();
  EXPECT_FLOAT_EQ(ctx.grad_of(x).as<float>()[3], 2.0F * (3.0F + 50.0F));
}

TEST(Tape, WhatNoLossReachesIsSkipped) {
  Context ctx({.num_threads = 1});
  ctx.begin_step();
  const Tensor x = input(ctx, 1.0F);
  const Tensor used = scale(ctx, x, 2.0F);
  scale(ctx, x, 100.0F);
  seed_gradient(ctx, used, 1.0F);
  ctx.backward();
  EXPECT_FLOAT_EQ(ctx.grad_of(x).as<float>()[0], 2.0F);
}

TEST(Tape, EvaluationRecordsNothing) {
  Context ctx({.num_threads = 1});
  ctx.begin_step();
  ctx.set_recording(false);
  const Tensor y = scale(ctx, input(ctx, 1.0F), 2.0F);
  EXPECT_EQ(y.grad, nullptr);
  EXPECT_TRUE(ctx.recorded_nodes().empty());
}

TEST(Tape, DetachedInputsGetNoGradient) {
  Context ctx({.num_threads = 1});
  ctx.begin_step();
  const Tensor x = input(ctx, 1.0F);
  const Tensor y = scale(ctx, x.detached(), 2.0F);
  seed_gradient(ctx, y, 1.0F);
  ctx.backward();
  EXPECT_FALSE(x.grad->written);
}

TEST(Tape, GradientBuffersAreHandedOverOnce) {
  Context ctx({.num_threads = 1});
  ctx.begin_step();
  const Tensor x = input(ctx, 1.0F);
  const Tensor y = ctx.variable({4}, DType::f32);
  ctx.push(PassNode(y, x));
  seed_gradient(ctx, y, 7.0F);
  const void* buffer = ctx.grad_of(y).data;
  ctx.backward();
  EXPECT_TRUE(PassNode::handed_over);
  EXPECT_EQ(ctx.grad_of(x).data, buffer);
  EXPECT_FLOAT_EQ(ctx.grad_of(x).as<float>()[2], 7.0F);

  const Tensor z = ctx.variable({4}, DType::f32);
  seed_gradient(ctx, z, 1.0F);
  EXPECT_FALSE(ctx.hand_over_grad(z, x)) << "x has a gradient already: the caller must add";
}

TEST(Tape, BackwardRecyclesGradientsOfResults) {
  Context ctx({.num_threads = 1});
  ctx.begin_step();
  Tensor t = input(ctx, 1.0F);
  for (int i = 0; i < 100; ++i) t = scale(ctx, t, 1.0F);
  const std::size_t forward = ctx.step_bytes();
  seed_gradient(ctx, t, 1.0F);
  ctx.backward();
  EXPECT_LE(ctx.step_bytes() - forward, 3U * 64U) << "a chain needs two gradient buffers, not a hundred";
}

TEST(Tape, BranchesKeepTheirOwnTapeAndMemory) {
  Context ctx({.num_threads = 1, .num_branches = 2});
  ctx.begin_step();
  Tensor x[3], y[3];
  for (int k = 1; k <= 2; ++k) {
    ctx.on_branch(k, [&] {
      x[k] = input(ctx, 1.0F);
      y[k] = scale(ctx, x[k], static_cast<float>(k));
    });
  }
  for (int k = 1; k <= 2; ++k) seed_gradient(ctx, y[k], 1.0F);  // joined section
  ctx.on_branch(2, [&] { ctx.backward(); });
  EXPECT_TRUE(x[2].grad->written);
  EXPECT_FALSE(x[1].grad->written);
}

TEST(StepPlan, ReplaysAfterTwoEqualSteps) {
  Context ctx({.num_threads = 1});
  int runs = 0;
  StepPlan plan(ctx, [&] {
    ctx.begin_step();
    scale(ctx, input(ctx, 1.0F), 2.0F);
    ++runs;
  });
  plan.run();
  EXPECT_FALSE(plan.ready());
  plan.run();
  EXPECT_TRUE(plan.ready());
  plan.run();
  EXPECT_EQ(runs, 3) << "the CPU replays by running again";
  EXPECT_EQ(plan.num_nodes(), 1);
}

TEST(StepPlan, RefusesAStepThatMoves) {
  Context ctx({.num_threads = 1});
  int runs = 0;
  StepPlan plan(ctx, [&] {
    ctx.begin_step();
    if (runs++ == 1) ctx.empty({16}, DType::f32);
    scale(ctx, input(ctx, 1.0F), 2.0F);
  });
  plan.run();
  EXPECT_THROW(plan.run(), Error);
}

TEST(StepPlan, RefusesAStepOfOtherLength) {
  Context ctx({.num_threads = 1});
  int runs = 0;
  StepPlan plan(ctx, [&] {
    ctx.begin_step();
    const Tensor y = scale(ctx, input(ctx, 1.0F), 2.0F);
    if (runs++ == 1) scale(ctx, y, 2.0F);
  });
  plan.run();
  EXPECT_THROW(plan.run(), Error);
}

}  // namespace
}  // namespace cohort
