#include "core/ops/cohort_loss.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/cohort_case.h"
#include "tests/support/op_check.h"

namespace cohort::test {
namespace {

using Values = std::vector<double>;

struct Golden {
  Context ctx;
  std::vector<Tensor> z;
  Tensor labels;

  Golden(const ContextOptions& options, int members) : ctx(options) {
    for (const auto* values : {&kGoldenZ1, &kGoldenZ2, &kGoldenZ3}) {
      if (static_cast<int>(z.size()) < members) z.push_back(variable(ctx, {2, 3}, *values));
    }
    labels = constant(ctx, {2}, std::vector<std::int32_t>{0, 1});
  }
  ops::CohortLossInputs inputs() { return {.logits = z, .labels = labels}; }
  Values gradient(int k) { return download<double>(ctx, ctx.grad_of(z[static_cast<std::size_t>(k)])); }
};

using OpsCohortLoss = OpTest;
COHORT_INSTANTIATE_DEVICES(OpsCohortLoss);

TEST_P(OpsCohortLoss, MutualLearningWritesValuesAndGradients) {
  Golden g(options(), 2);
  auto in = g.inputs();
  in.kl_weight = constant(g.ctx, {2, 2}, Values{0, 1, 1, 0});
  const auto out = ops::cohort_loss(g.ctx, in);
  EXPECT_TRUE(all_near(download<double>(g.ctx, out.loss), Values{1.353294, 1.315154}, 2e-6));
  EXPECT_TRUE(
      all_near(g.gradient(0), Values{-0.051547, 0.247769, -0.196223, 0.479706, -0.411746, -0.067960}, 2e-6));
  EXPECT_TRUE(g.ctx.recorded_nodes().empty());  // terminal
}

// Teachers are constants: each member's loss is differentiated by its own logits only.
TEST_P(OpsCohortLoss, GradientsAgreeWithDifferences) {
  Random random(base_seed());
  for (const auto rule : {kernels::TargetRule::kNone, kernels::TargetRule::kGiven}) {
    Context ctx(options());
    Leaf a(ctx, {2, 5}, random), b(ctx, {2, 5}, random), c(ctx, {2, 5}, random);
    const std::vector<Tensor> z = {a.tensor, b.tensor, c.tensor};
    ops::CohortLossInputs in{.logits = z, .labels = kept(ctx, {2}, std::vector<std::int32_t>{4, 0})};
    in.ce_weight = kept(ctx, {3}, Values{1, 0.5, 2});
    in.kl_weight = kept(ctx, {3, 3}, Values{0, 0.3, 0.7, 1, 0, 0, 0.2, 2, 0});
    in.temperature = 3;
    in.target_rule = rule;
    if (rule == kernels::TargetRule::kGiven) {
      in.given_target = kept(ctx, {2, 5}, Values{0.1, 0.2, 0.3, 0.4, 0, 0, 0, 1, 0, 0});
      in.target_weight = kept(ctx, {3}, Values{1, 0, 0.5});
    }
    check_loss_gradients(ctx, [&] { return ops::cohort_loss(ctx, in).loss; }, {&a, &b, &c});
  }
}

TEST_P(OpsCohortLoss, SecondLossAccumulates) {
  Golden g(options(), 2);
  ops::cohort_loss(g.ctx, g.inputs());
  const Values once = g.gradient(1);
  ops::cohort_loss(g.ctx, g.inputs());
  Values twice = once;
  for (double& v : twice) v += v;
  EXPECT_TRUE(same_bits(g.gradient(1), twice));
}

TEST_P(OpsCohortLoss, ValuesOnlyTouchesNoGradient) {
  Golden g(options(), 2);
  auto in = g.inputs();
  in.gradients = false;
  ops::cohort_loss(g.ctx, in);
  EXPECT_THROW(g.ctx.grad_of(g.z[0]), Error);
}

TEST_P(OpsCohortLoss, DetachedMemberGetsNoGradient) {
  Golden g(options(), 2);
  g.z[0] = g.z[0].detached();
  auto in = g.inputs();
  in.kl_weight = constant(g.ctx, {2, 2}, Values{0, 1, 1, 0});
  ops::cohort_loss(g.ctx, in);
  EXPECT_TRUE(
      all_near(g.gradient(1), Values{-0.417420, -0.055427, 0.472846, -0.179584, -0.098798, 0.278382}, 2e-6));
}

// Competitive training as a method runs it: the batch chooses the teacher within the call.
TEST_P(OpsCohortLoss, CompetitiveStep) {
  for (const auto rule : {kernels::SelectRule::kArgmin, kernels::SelectRule::kAllBetter}) {
    Golden g(options(), 3);
    auto in = g.inputs();
    in.choice = {.rule = rule,
                 .kl = 1,
                 .feature = 0.25,
                 .masked_member = constant(g.ctx, {}, std::vector<std::int32_t>{0})};
    const auto out = ops::cohort_loss(g.ctx, in);
    const bool one = rule == kernels::SelectRule::kArgmin;
    EXPECT_EQ(download<std::int32_t>(g.ctx, out.selection.teacher), std::vector<std::int32_t>{2});
    const double first = one ? 0 : 0.5;
    const Values w = {0, 0, 1, first, 0, 1 - first, 0, 0, 0};
    EXPECT_EQ(download<double>(g.ctx, out.selection.kl_weight), w);
    EXPECT_EQ(download<double>(g.ctx, out.selection.feature_weight),
              (Values{0, 0, 0, 0, 0, 0.25 * (1 - first), 0, 0, 0}));
    EXPECT_TRUE(all_near(download<double>(g.ctx, out.loss),
                         Values{0.875213, one ? 0.857129 : 1.086141, 0.515647}, 2e-6));
    // The same W, given.
    Golden given(options(), 3);
    auto with = given.inputs();
    with.kl_weight = constant(given.ctx, {3, 3}, w);
    ops::cohort_loss(given.ctx, with);
    for (int k = 0; k < 3; ++k) EXPECT_TRUE(same_bits(g.gradient(k), given.gradient(k)));
  }
}

TEST_P(OpsCohortLoss, AMatrixIsGivenOrChosen) {
  Golden g(options(), 2);
  auto in = g.inputs();
  in.choice.emplace();
  in.kl_weight = constant(g.ctx, {2, 2}, Values{0, 1, 1, 0});
  EXPECT_THROW(ops::cohort_loss(g.ctx, in), Error);
}

TEST_P(OpsCohortLoss, ReturnsTheSharedTarget) {
  Golden g(options(), 2);
  auto in = g.inputs();
  in.target_rule = kernels::TargetRule::kMinLogit;
  in.temperature = 2;
  in.keep_target = true;
  in.target_weight = constant(g.ctx, {2}, Values{1, 1});
  const auto out = ops::cohort_loss(g.ctx, in);
  EXPECT_TRUE(all_near(download<double>(g.ctx, out.target),
                       Values{0.568546, 0.268562, 0.162891, 0.197311, 0.536347, 0.266342}, 2e-6));
  EXPECT_TRUE(all_near(download<double>(g.ctx, out.loss), Values{0.971178, 1.065194}, 2e-6));
}

TEST_P(OpsCohortLoss, WrongShapesAreNamed) {
  Golden g(options(), 2);
  const auto message = [&](const ops::CohortLossInputs& in) {
    return refusal([&] { ops::cohort_loss(g.ctx, in); });
  };
  auto in = g.inputs();
  in.labels = constant(g.ctx, {3}, std::vector<std::int32_t>{0, 1, 1});
  EXPECT_EQ(message(in), "cohort_loss: labels [3] i32 instead of [2] i32");
  in = g.inputs();
  in.kl_weight = constant(g.ctx, {3, 3}, Values(9));
  EXPECT_EQ(message(in), "cohort_loss: kl_weight [3,3] f64 instead of [2,2] f64");
  in = g.inputs();
  in.target_rule = kernels::TargetRule::kGiven;
  EXPECT_EQ(message(in), "cohort_loss: given_target [] f32 (missing) instead of [2,3] f64");
  in = g.inputs();
  g.z[1] = variable(g.ctx, {3, 2}, kGoldenZ2);
  EXPECT_EQ(message(g.inputs()), "cohort_loss: logits [3,2] f64 instead of [2,3] f64");
}

}  // namespace
}  // namespace cohort::test
