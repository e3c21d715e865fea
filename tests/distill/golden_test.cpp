// The golden fixture of the methods' specification: losses and gradients to 6 decimals, in f64 and f32.
#include <gtest/gtest.h>

#include <cmath>

#include "core/gradcheck.h"
#include "distill/method_probe.h"

namespace cohort::distill {
namespace {

using Values = std::vector<double>;

const Values kZ1 = {2.0, 1.2, -0.5, 0.9, 0.6, -0.8};
const Values kZ2 = {1.0, -0.5, 1.2, -0.6, 1.4, 0.8};
const Values kZ3 = {1.5, 0.3, 0.2, 0.1, 1.2, 0.4};
const Values kF1 = {0.6, -0.2, 0.3, 0.5, 0.1, 0.4, -0.3, 0.2};
const Values kF2 = {0.5, 0.1, -0.1, 0.4, 0.2, 0.15, 0.3, -0.4};
const Values kCe1 = {-0.173504, 0.146704, 0.026800, 0.259943, -0.307430, 0.047487};
const Values kCe2 = {-0.295462, 0.045639, 0.249823, 0.040179, -0.203114, 0.162935};

struct Setting {
  std::string key, value;
};

class Golden : public testing::TestWithParam<bool> {
 protected:
  bool f64() const { return GetParam(); }
  double tolerance() const { return f64() ? 2e-6 : 1e-5; }

  ProbeOutput run(const std::string& method, std::vector<Values> logits,
                  const std::vector<Setting>& settings = {}, bool features = false) const {
    const MethodInfo& info = find_method(method);
    MethodOptions options(info.options);
    for (const Setting& s : settings) options.set(s.key, s.value);
    ProbeInput in{.double_precision = f64(),
                  .rows = 2,
                  .classes = 3,
                  .logits = std::move(logits),
                  .labels = {0, 1},
                  .features = {}};
    if (features) in.features = {{2, 1, 2, kF1}, {2, 1, 2, kF2}};
    return probe_method(*info.make(options), in);
  }

  void expect(const Values& actual, const Values& golden, const char* what) const {
    ASSERT_EQ(actual.size(), golden.size()) << what;
    for (std::size_t i = 0; i < golden.size(); ++i)
      EXPECT_NEAR(actual[i], golden[i], tolerance()) << what << " at " << i;
  }
};

INSTANTIATE_TEST_SUITE_P(Precision, Golden, testing::Values(true, false),
                         [](const auto& p) { return p.param ? "f64" : "f32"; });

TEST_P(Golden, Independent) {
  const ProbeOutput out = run("independent", {kZ1, kZ2});
  expect(out.loss, {0.690169, 0.707557}, "loss");
  expect(out.grad_logits[0], kCe1, "g1");
  expect(out.grad_logits[1], kCe2, "g2");
}

TEST_P(Golden, Kd) {
  const ProbeOutput out = run("kd", {kZ1, kZ2});
  EXPECT_NEAR(out.loss[1], 0.866444, tolerance());
  expect(out.grad_logits[1], {-0.136925, -0.169744, 0.306669, -0.250747, 0.062366, 0.188381}, "student");
  expect(out.grad_logits[0], Values(6, 0.0), "a frozen teacher has no gradient");
}

TEST_P(Golden, Dml) {
  const ProbeOutput out = run("dml", {kZ1, kZ2});
  expect(out.loss, {1.353294, 1.315154}, "loss");
  expect(out.grad_logits[0], {-0.051547, 0.247769, -0.196223, 0.479706, -0.411746, -0.067960}, "g1");
  expect(out.grad_logits[1], {-0.417420, -0.055427, 0.472846, -0.179584, -0.098798, 0.278382}, "g2");
}

TEST_P(Golden, DmlAttached) {
  const ProbeOutput out = run("dml", {kZ1, kZ2}, {{"dml.attached", "true"}});
  EXPECT_NEAR(out.loss[0] + out.loss[1], 2.668447, tolerance());
  expect(out.grad_logits[0], {-0.071353, 0.341563, -0.270209, 0.786502, -0.627378, -0.159124}, "g1");
  expect(out.grad_logits[1], {-0.680282, -0.146026, 0.826308, -0.275045, -0.121323, 0.396368}, "g2");
}

TEST_P(Golden, DmlOfThreeNetworks) {
  const ProbeOutput mean = run("dml", {kZ1, kZ2, kZ3});
  expect(mean.loss, {1.114253, 1.086141, 0.692140}, "mean");
  expect(mean.grad_logits[0], {-0.108136, 0.222741, -0.114605, 0.453102, -0.403579, -0.049523}, "g1 mean");
  expect(mean.grad_logits[2], {-0.130082, 0.095218, 0.034864, 0.036714, -0.183624, 0.146909}, "g3 mean");
  const ProbeOutput sum = run("dml", {kZ1, kZ2, kZ3}, {{"dml.norm", "sum"}});
  expect(sum.loss, {1.538337, 1.464726, 0.868633}, "sum");
  expect(sum.grad_logits[0], {-0.042768, 0.298779, -0.256010, 0.646261, -0.499728, -0.146533}, "g1 sum");
  expect(sum.grad_logits[2], {-0.077882, 0.094741, -0.016860, -0.019959, -0.147800, 0.167759}, "g3 sum");
}

TEST_P(Golden, DmlWeightPerDirection) {
  // 0.3 of the KL from the second network to the first one: linear in the weight.
  const ProbeOutput out = run("dml", {kZ1, kZ2}, {{"dml.weights", "0,0.3;1,0"}});
  expect(out.loss, {0.690169 + 0.3 * 0.663124, 1.315154}, "loss");
}

TEST_P(Golden, KdclNaivePerSample) {
  const ProbeOutput out = run("kdcl-naive", {kZ1, kZ2});
  expect(out.target, {0.511032, 0.342555, 0.146413, 0.174458, 0.474226, 0.351316}, "target");
  expect(out.loss, {1.033291, 1.103052}, "loss");
  expect(out.grad_logits[0], {-0.173504, 0.146704, 0.026800, 0.522524, -0.405493, -0.117031}, "g1");
  expect(out.grad_logits[1], {-0.418527, -0.113654, 0.532180, 0.040179, -0.203114, 0.162935}, "g2");
}

TEST_P(Golden, KdclNaivePerBatch) {
  const ProbeOutput out = run("kdcl-naive", {kZ1, kZ2}, {{"naive.scope", "batch"}});
  EXPECT_EQ(out.teacher, 0);
  expect(out.loss, {0.690169, 1.495483}, "loss");
  expect(out.grad_logits[0], kCe1, "g1");
  expect(out.grad_logits[1], {-0.418527, -0.113654, 0.532180, -0.222402, -0.105051, 0.327453}, "g2");
}

TEST_P(Golden, KdclMinLogit) {
  const ProbeOutput out = run("kdcl-minlogit", {kZ1, kZ2});
  expect(out.target, {0.568546, 0.268562, 0.162891, 0.197311, 0.536347, 0.266342}, "target");
  expect(out.loss, {0.971178, 1.065194}, "loss");
  expect(out.grad_logits[0], {-0.231019, 0.220697, 0.010322, 0.499671, -0.467613, -0.032058}, "g1");
  expect(out.grad_logits[1], {-0.476041, -0.039661, 0.515702, 0.017326, -0.265234, 0.247908}, "g2");
}

TEST_P(Golden, KdclMean) {
  const ProbeOutput out = run("kdcl-mean", {kZ1, kZ2});
  expect(out.target, {0.470498, 0.264751, 0.264751, 0.289240, 0.442419, 0.268341}, "target");
  expect(out.loss, {0.888816, 0.914981}, "loss");
}

TEST_P(Golden, KdclLinearPerSample) {
  const ProbeOutput out = run("kdcl-linear", {kZ1, kZ2});
  expect(out.target, {0.506118, 0.327253, 0.166629, 0.196531, 0.470233, 0.333235}, "target");
  expect(out.loss, {0.975133, 1.044833}, "loss");
  expect(out.grad_logits[0], {-0.168591, 0.162006, 0.006584, 0.500451, -0.401500, -0.098951}, "g1");
  expect(out.grad_logits[1], {-0.413613, -0.098352, 0.511964, 0.018106, -0.199121, 0.181015}, "g2");
}

TEST_P(Golden, KdclLinearPerBatch) {
  // alpha = 0.501573: z_t and softmax_2 of it by hand.
  const ProbeOutput out = run("kdcl-linear", {kZ1, kZ2}, {{"linear.scope", "batch"}});
  const double a = 0.501573;
  Values target;
  for (std::size_t b = 0; b < 2; ++b) {
    double sum = 0;
    for (std::size_t c = 3 * b; c < 3 * b + 3; ++c) sum += std::exp((a * kZ1[c] + (1 - a) * kZ2[c]) / 2);
    for (std::size_t c = 3 * b; c < 3 * b + 3; ++c)
      target.push_back(std::exp((a * kZ1[c] + (1 - a) * kZ2[c]) / 2) / sum);
  }
  expect(out.target, target, "target");
}

TEST_P(Golden, KdclGeneral) {
  const ProbeOutput out = run("kdcl-general", {kZ1, kZ2});  // V: the two samples
  expect(out.target, {0.458903, 0.275081, 0.266016, 0.325814, 0.417702, 0.256485}, "target");
  expect(out.loss, {0.847178, 0.970763}, "loss");
  expect(out.grad_logits[0], {-0.121376, 0.214178, -0.092802, 0.371168, -0.348968, -0.022201}, "g1");
  expect(out.grad_logits[1], {-0.366398, -0.046180, 0.412578, -0.111176, -0.146589, 0.257765}, "g2");
  const Values ce = run("kdcl-general", {kZ1, kZ2}, {{"general.loss", "ce"}}).target;
  EXPECT_NEAR(ce[0], 0.473713 * 0.511032 + 0.526287 * 0.387967, tolerance());
}

TEST_P(Golden, Dkd) {
  const ProbeOutput out = run("dkd", {kZ1, kZ2});
  EXPECT_NEAR(out.loss[1], 0.707557 + 10.523081, 5 * tolerance());
  Values gradient = kCe2;
  const Values added = {-0.119310, -3.302565, 3.421875, -3.098721, 0.091863, 3.006858};
  for (std::size_t i = 0; i < gradient.size(); ++i) gradient[i] += added[i];
  expect(out.grad_logits[1], gradient, "student");
  expect(out.grad_logits[0], Values(6, 0.0), "a frozen teacher has no gradient");
}

TEST_P(Golden, FitNet) {
  const ProbeOutput out = run("fitnet", {kZ1, kZ2}, {{"fitnet.regressor", "identity"}}, /*features=*/true);
  EXPECT_NEAR(out.loss[1], 0.707557 + 13.28125, 5 * tolerance());
  expect(out.grad_logits[1], kCe2, "student");
  expect(out.grad_features[1], {-2.5, 7.5, -10, -2.5, 2.5, -6.25, 15, -15}, "dL/dF2");
  expect(out.grad_features[0], Values(8, 0.0), "a frozen teacher has no gradient");
}

// The shadow's logits are given: those of the third network.
TEST_P(Golden, Shake) {
  const ProbeOutput out = run("shake", {kZ1, kZ2, kZ3}, {{"shake.shadow", "net"}});
  EXPECT_NEAR(out.loss[1], 0.646005 + 2.959603, 5 * tolerance());
  EXPECT_NEAR(out.loss[2], 3.767125 + 0.003856 + 11.045071, 10 * tolerance());
  EXPECT_NEAR(out.loss[1] + out.loss[2], 18.421660, 10 * tolerance());
  expect(out.grad_logits[1], {-4.464873, 0.525279, 3.939594, -0.403865, -0.942352, 1.346217}, "dL/dz_s");
  expect(out.grad_logits[2], {0.165028, -2.145349, 1.980321, -5.813933, -2.180219, 7.994152}, "dL/dz_h");
  expect(out.grad_logits[0], Values(6, 0.0), "a frozen teacher has no gradient");
  const ProbeOutput taught =
      run("shake", {kZ1, kZ2, kZ3}, {{"shake.shadow", "net"}, {"shake.a", "1"}, {"shake.b", "0"}});
  EXPECT_NEAR(taught.loss[1], 0.646005 + 9.182586, 5 * tolerance());
  EXPECT_EQ(taught.loss[2], 0);
}

TEST_P(Golden, DisWot) {
  const auto loss = [&](const char* relation, const char* semantic) {
    return run("diswot", {kZ1, kZ2}, {{"diswot.b", "0"}, {"diswot.l1", relation}, {"diswot.l2", semantic}},
               true)
        .loss[1];
  };
  EXPECT_NEAR(loss("0", "0"), 0.707557, tolerance());
  EXPECT_NEAR(loss("1", "0"), 0.707557 + 0.016509, tolerance());
  EXPECT_NEAR(loss("0", "1"), 0.707557 + 0.714800, 2 * tolerance());
  const ProbeOutput out = run("diswot", {kZ1, kZ2}, {}, true);
  EXPECT_NEAR(out.loss[1], 0.707557 + 0.884098 + 0.016509 + 0.714800, 3 * tolerance());
  expect(out.grad_features[0], Values(8, 0.0), "a frozen teacher has no gradient");
  expect(out.grad_logits[0], Values(6, 0.0), "nor its logits");
}

TEST(DisWot, GradientsAreThoseOfTheLoss) {
  const MethodInfo& info = find_method("diswot");
  ProbeInput in{.rows = 2, .classes = 3, .logits = {kZ1, kZ2}, .labels = {0, 1}};
  in.features = {{2, 1, 2, kF1}, {2, 1, 2, kF2}};
  const auto run = [&] { return probe_method(*info.make(MethodOptions(info.options)), in); };
  const ProbeOutput at = run();
  const auto loss = [&] { return run().loss[1]; };
  EXPECT_EQ(gradcheck(loss, in.logits[1].data(), 6, at.grad_logits[1]), "");
  EXPECT_EQ(gradcheck(loss, in.features[1].values.data(), 8, at.grad_features[1]), "");
}

TEST_P(Golden, SwitOkdPair) {
  const ProbeOutput expert = run("switokd", {kZ1, kZ2});
  EXPECT_EQ(expert.step_mask, (Values{0, 1}));
  EXPECT_NEAR(expert.loss[1], 1.315154, tolerance());
  expect(expert.grad_logits[0], Values(6, 0.0), "a paused teacher");
  expect(expert.grad_logits[1], {-0.417420, -0.055427, 0.472846, -0.179584, -0.098798, 0.278382}, "student");
  const ProbeOutput learning = run("switokd", {kZ2, kZ1});
  EXPECT_EQ(learning.step_mask, (Values{1, 1}));
  expect(learning.loss, {1.315154, 1.353294}, "loss");
  expect(learning.grad_logits[0], {-0.417420, -0.055427, 0.472846, -0.179584, -0.098798, 0.278382},
         "teacher");
}

TEST_P(Golden, SwitOkdOneTeacherOfTwo) {
  const ProbeOutput out = run("switokd", {kZ3, kZ1, kZ2});
  EXPECT_EQ(out.step_mask, (Values{1, 1, 1}));
  expect(out.kl_weight, {0, 0, 1, 1, 0, 1, 1, 1, 0}, "w");
  expect(out.loss, {0.681207, 1.538337, 1.464726}, "loss");
  expect(out.grad_logits[0], {-0.069103, 0.145751, -0.076647, 0.146596, -0.235782, 0.089186}, "teacher");
}

TEST_P(Golden, SwitOkdTwoTeachersOfOne) {
  for (const char* compat : {"false", "true"}) {
    const ProbeOutput out =
        run("switokd", {kZ3, kZ1, kZ2}, {{"swit.roles", "2t1s"}, {"swit.code_compat", compat}});
    EXPECT_EQ(out.step_mask, (Values{1, 0, 1}));
    EXPECT_NEAR(out.loss[0], 0.868633, tolerance());
    EXPECT_NEAR(out.loss[2], 1.464726, tolerance());
    expect(out.grad_logits[1], Values(6, 0.0), "a paused teacher");
    expect(out.grad_logits[2], {-0.530599, -0.105483, 0.636082, -0.232793, -0.082464, 0.315256}, "student");
  }
}

TEST_P(Golden, Competitive) {
  const ProbeOutput out = run("competitive", {kZ1, kZ2}, {}, /*features=*/true);
  EXPECT_EQ(out.teacher, 0);
  expect(out.loss, {0.690169, 1.447966}, "loss");
  expect(out.grad_logits[0], kCe1, "g1");
  expect(out.grad_logits[1], {-0.417420, -0.055427, 0.472846, -0.179584, -0.098798, 0.278382}, "g2");
  expect(out.grad_features[0], Values(8, 0.0), "the teacher's maps are detached");
  expect(out.grad_features[1], {-0.025, 0.075, -0.100, -0.025, 0.025, -0.0625, 0.150, -0.150}, "dL_F/dF2");
}

TEST_P(Golden, CompetitiveFeatureReductions) {
  const double base = 0.707557 + 0.607597;
  EXPECT_NEAR(run("competitive", {kZ1, kZ2}, {{"cd.lf", "sum"}}, true).loss[1], base + 1.0625, tolerance());
  EXPECT_NEAR(run("competitive", {kZ1, kZ2}, {{"cd.lf", "sum_over_batch"}}, true).loss[1], base + 0.53125,
              tolerance());
  EXPECT_NEAR(run("competitive", {kZ1, kZ2}, {{"cd.lf", "off"}}, true).loss[1], base, tolerance());
  EXPECT_NEAR(run("competitive", {kZ1, kZ2}, {{"cd.b", "0.5"}}, true).loss[1], base + 0.5 * 0.132813,
              tolerance());
}

TEST_P(Golden, CompetitiveOfThreeNetworks) {
  const ProbeOutput best = run("competitive", {kZ1, kZ2, kZ3});
  EXPECT_EQ(best.teacher, 2);
  expect(best.loss, {0.875213, 0.857129, 0.515647}, "argmin");
  expect(best.grad_logits[0], {-0.164726, 0.197713, -0.032987, 0.426497, -0.395412, -0.031086}, "g1");
  expect(best.grad_logits[1], {-0.408641, -0.004417, 0.413059, -0.013029, -0.186780, 0.199809}, "g2");
  const ProbeOutput all = run("competitive", {kZ1, kZ2, kZ3}, {{"cd.rule", "all_better"}});
  expect(all.grad_logits[0], {-0.164726, 0.197713, -0.032987, 0.426497, -0.395412, -0.031086},
         "g1 all better");
  EXPECT_NEAR(all.loss[1], 1.086141, tolerance());
  expect(all.grad_logits[1], {-0.413030, -0.029922, 0.442952, -0.096307, -0.142789, 0.239096},
         "g2 all better");
}

}  // namespace
}  // namespace cohort::distill
