// Asymmetric decision-making end to end on the golden fixture: similarity, weight maps, re-weighted pooling,
// classifier and loss, and the gradients back to the feature maps.
#include "core/ops/attention_reweight.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/ops/cohort_loss.h"
#include "core/ops/pixel_cosine.h"
#include "tests/support/feature_fixture.h"
#include "tests/support/op_check.h"
#include "tests/support/tolerance.h"

namespace cohort::test {
namespace {

using Values = std::vector<double>;
constexpr double kTol = 2e-6;

struct Adm {
  explicit Adm(const ContextOptions& options) : ctx(options) {}

  Context ctx;
  Tensor teacher = variable(ctx, {2, 1, 2, 2}, nhwc(kGoldenF1));
  Tensor student = variable(ctx, {2, 1, 2, 2}, nhwc(kGoldenF2));
  Tensor labels = constant(ctx, {2}, std::vector<std::int32_t>{0, 1});
  Tensor similarity = ops::pixel_cosine(ctx, teacher.detached(), student.detached());
  ops::AttentionMaps maps = ops::attention_weights(ctx, similarity);

  struct Branch {
    Values logits, grad_logits, grad_features;
    double loss;
  };

  // Pools `features` under `map`, classifies, and goes back from the CE (or from KL to `given`).
  Branch run(const Tensor& features, const Tensor& map, bool relu, const Values& weight, const Values& bias,
             const Values& given = {}) {
    const Tensor pooled = ops::attention_pool(ctx, features, map, relu);
    Branch out;
    out.logits = fully_connected(download<double>(ctx, pooled), weight, bias);
    const Tensor logits = variable(ctx, {2, 3}, out.logits);
    ops::CohortLossInputs in{.logits = {&logits, 1}, .labels = labels};
    if (!given.empty()) {
      in.target_rule = kernels::TargetRule::kGiven;
      in.given_target = constant(ctx, {2, 3}, given);
      in.ce_weight = constant(ctx, {1}, Values{0});
      in.target_weight = constant(ctx, {1}, Values{1});
    }
    out.loss = download<double>(ctx, ops::cohort_loss(ctx, in).loss)[0];
    out.grad_logits = download<double>(ctx, ctx.grad_of(logits));
    seed_gradient(ctx, pooled, fully_connected_backward(out.grad_logits, weight, 3));
    ctx.backward();
    out.grad_features = download<double>(ctx, ctx.grad_of(features));
    return out;
  }
};

using OpsAttention = OpTest;
COHORT_INSTANTIATE_DEVICES(OpsAttention);

TEST_P(OpsAttention, SimilarityAndWeightMaps) {
  Adm adm(options());
  EXPECT_TRUE(all_near(download<double>(adm.ctx, adm.similarity),
                       Values{0.789352, 0.810679, -0.613941, -0.104685}, kTol));
  EXPECT_TRUE(
      all_near(download<double>(adm.ctx, adm.maps.co), Values{0.994070, 1.005919, 0.602561, 1.397408}, kTol));
  EXPECT_TRUE(
      all_near(download<double>(adm.ctx, adm.maps.di), Values{1.053269, 0.946631, 1.187312, 0.812673}, kTol));
}

TEST_P(OpsAttention, ConsensusReachesTheStudentOnly) {
  Adm adm(options());
  const auto r = adm.run(adm.student, adm.maps.co, true, kStudentWeight, kStudentBias);
  EXPECT_TRUE(all_near(r.logits, Values{0.269525, 0.161540, 0.009170, 0.142658, 0.115321, -0.035546}, kTol));
  EXPECT_NEAR(r.loss, 1.020969, kTol);
  EXPECT_TRUE(
      all_near(r.grad_logits, Values{-0.312623, 0.168197, 0.144426, 0.177948, -0.326850, 0.148902}, kTol));
  EXPECT_TRUE(all_near(r.grad_features,
                       nhwc({-0.106317, -0.107584, 0, 0.014438, 0.099349, 0.230401, -0.081515, 0}), kTol));
  EXPECT_THROW(adm.ctx.grad_of(adm.teacher), Error);
}

TEST_P(OpsAttention, DisagreementReachesTheTeacherOnly) {
  Adm adm(options());
  const auto r = adm.run(adm.teacher, adm.maps.di, true, kTeacherWeight, kTeacherBias);
  EXPECT_TRUE(all_near(r.logits, Values{0.218657, 0.378915, -0.131729, 0.281267, 0.109394, -0.200633}, kTol));
  EXPECT_NEAR(r.loss, 1.064543, kTol);
  EXPECT_TRUE(
      all_near(r.grad_logits, Values{-0.326282, 0.203912, 0.122370, 0.203277, -0.328823, 0.125546}, kTol));
  EXPECT_TRUE(all_near(r.grad_features,
                       nhwc({-0.189020, 0, 0.197603, 0.177597, 0.036917, 0.025268, 0, -0.127784}), kTol));
  EXPECT_THROW(adm.ctx.grad_of(adm.student), Error);
}

TEST_P(OpsAttention, WithoutRelu) {
  Adm co(options());
  auto r = co.run(co.student, co.maps.co, false, kStudentWeight, kStudentBias);
  EXPECT_TRUE(all_near(r.logits, Values{0.254614, 0.116807, 0.019111, 0.058814, -0.136212, 0.020350}, kTol));
  EXPECT_NEAR(r.loss, 1.099085, kTol);
  EXPECT_TRUE(all_near(
      r.grad_features,
      nhwc({-0.104249, -0.105491, 0.011922, 0.012064, 0.106340, 0.246614, -0.089705, -0.208036}), kTol));
  Adm di(options());
  r = di.run(di.teacher, di.maps.di, false, kTeacherWeight, kTeacherBias);
  EXPECT_TRUE(
      all_near(r.logits, Values{0.123994, 0.359982, -0.074931, 0.370315, -0.033084, -0.271872}, kTol));
  EXPECT_NEAR(r.loss, 1.158006, kTol);
  EXPECT_TRUE(all_near(
      r.grad_features,
      nhwc({-0.198339, -0.178259, 0.203404, 0.182810, 0.051283, 0.035101, -0.204334, -0.139859}), kTol));
}

// KD forms: the teacher's own re-weighted prediction for the consensus term, the smoothed memory for the
// other.
TEST_P(OpsAttention, DistilledForms) {
  Adm adm(options());
  const Tensor pooled = ops::attention_pool(adm.ctx, adm.teacher.detached(), adm.maps.co);
  const Values teacher = fully_connected(download<double>(adm.ctx, pooled), kTeacherWeight, kTeacherBias);
  EXPECT_TRUE(all_near(teacher, Values{0.197926, 0.380116, -0.118697, 0.339739, 0.173715, -0.229869}, kTol));
  Values target(6);
  for (std::size_t b = 0; b < 2; ++b) {
    double sum = 0;
    for (std::size_t c = 0; c < 3; ++c) sum += std::exp(teacher[b * 3 + c]);
    for (std::size_t c = 0; c < 3; ++c) target[b * 3 + c] = std::exp(teacher[b * 3 + c]) / sum;
  }
  const auto co = adm.run(adm.student, adm.maps.co, true, kStudentWeight, kStudentBias, target);
  EXPECT_NEAR(co.loss, 0.011890, kTol);
  EXPECT_TRUE(all_near(co.grad_features,
                       nhwc({0.018054, 0.018269, 0, -0.016100, -0.001119, -0.002595, -0.005200, 0}), kTol));

  Adm other(options());
  const Values memory = {0.930598, 0.058682, 0.010720, 0.103977, 0.877028, 0.018995};
  const auto di = other.run(other.teacher, other.maps.di, false, kTeacherWeight, kTeacherBias, memory);
  EXPECT_NEAR(di.loss, 0.779600, 5e-6);  // the target has 6 decimals
  EXPECT_TRUE(
      all_near(di.grad_logits, Values{-0.303265, 0.175820, 0.127445, 0.175886, -0.286283, 0.110397}, kTol));
}

TEST_P(OpsAttention, IdenticalMapsHaveNoDisagreement) {
  Context ctx(options());
  const Tensor f = variable(ctx, {2, 1, 2, 2}, nhwc(kGoldenF1));
  const auto maps = ops::attention_weights(ctx, ops::pixel_cosine(ctx, f, f));
  EXPECT_TRUE(all_near(download<double>(ctx, maps.di), Values{1, 1, 1, 1}, 0));
  EXPECT_TRUE(all_near(download<double>(ctx, maps.co), Values{1, 1, 1, 1}, 1e-5));
}

using OpsPixelCosine = OpTest;
COHORT_INSTANTIATE_DEVICES(OpsPixelCosine);

TEST_P(OpsPixelCosine, GradientsAgreeWithDifferences) {
  Random random(base_seed());
  Context ctx(options());
  Leaf a(ctx, {2, 2, 3, 7}, random), b(ctx, {2, 2, 3, 7}, random);
  check_gradients(ctx, [&] { return ops::pixel_cosine(ctx, a.tensor, b.tensor); }, {&a, &b});
}

TEST_P(OpsPixelCosine, GradientOfBothSidesAddsUpOnOneTensor) {
  Context ctx(options());
  const Tensor a = variable(ctx, {2, 1, 2, 2}, nhwc(kGoldenF1));
  const Tensor y = ops::pixel_cosine(ctx, a, a);  // 1 everywhere: no direction changes it
  seed_gradient(ctx, y, Values{1, 2, 3, 4});
  ctx.backward();
  EXPECT_TRUE(all_near(download<double>(ctx, ctx.grad_of(a)), Values(8, 0), 1e-14));
}

TEST_P(OpsAttention, PoolGradientsAgreeWithDifferences) {
  Random random(base_seed());
  Context ctx(options());
  const Tensor weights = kept(ctx, {2, 3, 2}, random.uniforms<double>(12, 0.5, 2));
  for (const bool relu : {false, true}) {
    Leaf x(ctx, {2, 3, 2, 5}, random);
    for (double& v : x.values) v += v < 0 ? -0.02 : 0.02;  // away from the kink
    check_gradients(ctx, [&] { return ops::attention_pool(ctx, x.tensor, weights, relu); }, {&x});
  }
}

TEST_P(OpsAttention, MismatchIsNamed) {
  Context ctx(options(Precision::kF32));
  const Tensor f = constant(ctx, {1, 2, 2, 3}, std::vector<float>(12));
  const Tensor w = constant(ctx, {1, 2, 3}, std::vector<float>(6));
  EXPECT_EQ(refusal([&] { ops::attention_pool(ctx, f, w); }),
            "attention_pool: features [1,2,2,3] f32 vs weights [1,2,3] f32");
}

}  // namespace
}  // namespace cohort::test
