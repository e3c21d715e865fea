// Asymmetric decision-making: the golden numbers of its specification, finite differences through the whole
// term, and what must hold of roles.
#include <gtest/gtest.h>

#include "core/gradcheck.h"
#include "distill/addition.h"
#include "distill/method_probe.h"
#include "kernels/base/philox.h"
#include "tests/support/tiny_training.h"

namespace cohort::distill {
namespace {

using Values = std::vector<double>;
using Settings = std::vector<std::pair<std::string, std::string>>;

const Values kZ1 = {2.0, 1.2, -0.5, 0.9, 0.6, -0.8};
const Values kZ2 = {1.0, -0.5, 1.2, -0.6, 1.4, 0.8};

// Teacher 0, student 1: the fixture of the specification.
ProbeInput fixture(bool f64) {
  ProbeInput in{.double_precision = f64, .rows = 2, .classes = 3, .logits = {kZ1, kZ2}, .labels = {0, 1}};
  in.features = {{2, 1, 2, {0.6, -0.2, 0.3, 0.5, 0.1, 0.4, -0.3, 0.2}},
                 {2, 1, 2, {0.5, 0.1, -0.1, 0.4, 0.2, 0.15, 0.3, -0.4}}};
  in.classifiers = {{{1.0, -0.5, 0.2, 0.8, -0.6, 0.4}, {0.1, 0, -0.1}},
                    {{0.7, 0.3, -0.4, 0.9, 0.5, -0.2}, {0, 0.1, -0.1}}};
  return in;
}

// One term at a time, on networks that otherwise learn nothing from each other.
std::unique_ptr<Method> with_terms(const std::string& base, const Settings& settings) {
  const MethodInfo& info = find_method(base);
  const AdditionInfo& adm = find_addition("adm");
  MethodOptions options(adm.options);
  for (const auto& [key, value] : settings) options.set(key, value);
  return adm.add(info.make(MethodOptions(info.options)), options);
}

const Settings kConsensus = {{"adm.alpha", "1"}, {"adm.beta", "0"}, {"adm.gamma", "0"}};
const Settings kDivergence = {{"adm.alpha", "0"}, {"adm.beta", "1"}, {"adm.gamma", "0"}};
const Settings kFeatures = {{"adm.alpha", "0"}, {"adm.beta", "0"}, {"adm.gamma", "1"}, {"adm.feat", "last"}};

Settings and_also(Settings settings, const std::string& key, const std::string& value) {
  settings.emplace_back(key, value);
  return settings;
}

class AdmGolden : public testing::TestWithParam<bool> {
 protected:
  double tolerance() const { return GetParam() ? 2e-6 : 1e-5; }
  ProbeOutput run(const Settings& settings) const {
    return probe_method(*with_terms("independent", settings), fixture(GetParam()));
  }
  void expect(const Values& actual, const Values& golden, const char* what) const {
    ASSERT_EQ(actual.size(), golden.size()) << what;
    for (std::size_t i = 0; i < golden.size(); ++i)
      EXPECT_NEAR(actual[i], golden[i], tolerance()) << what << " at " << i;
  }
};
INSTANTIATE_TEST_SUITE_P(Precision, AdmGolden, testing::Values(true, false),
                         [](const auto& p) { return p.param ? "f64" : "f32"; });

constexpr double kCe1 = 0.690169, kCe2 = 0.707557;

TEST_P(AdmGolden, Consensus) {
  const ProbeOutput out = run(kConsensus);
  expect(out.loss, {kCe1, kCe2 + 1.020969}, "loss");
  expect(out.grad_features[1], {-0.106317, -0.107584, 0, 0.014438, 0.099349, 0.230401, -0.081515, 0},
         "dCE_co/dF_s");
  expect(out.grad_features[0], Values(8, 0.0), "the teacher's maps are constants of L_co");
  expect(out.grad_classifiers[1].weight, {-0.064044, -0.046811, -0.003691, 0.004296, 0.067734, 0.042515},
         "dCE_co/dW_s");
  expect(out.grad_classifiers[1].bias, {-0.312623 + 0.177948, 0.168197 - 0.326850, 0.144426 + 0.148902},
         "dCE_co/db_s");
  expect(out.grad_classifiers[0].weight, Values(6, 0.0), "the teacher's classifier");
}

TEST_P(AdmGolden, Divergence) {
  const ProbeOutput out = run(kDivergence);
  expect(out.loss, {kCe1 + 1.064543, kCe2}, "loss");
  expect(out.grad_features[0], {-0.189020, 0, 0.197603, 0.177597, 0.036917, 0.025268, 0, -0.127784},
         "dCE_di/dF_t");
  expect(out.grad_features[1], Values(8, 0.0), "the student's maps are constants of L_di");
  expect(out.grad_classifiers[0].bias, {-0.326282 + 0.203277, 0.203912 - 0.328823, 0.122370 + 0.125546},
         "dCE_di/db_t");
}

TEST_P(AdmGolden, ConsensusAsKl) {
  const ProbeOutput out = run(and_also(kConsensus, "adm.co_form", "kd"));
  expect(out.loss, {kCe1, kCe2 + 0.011890}, "loss");
  expect(out.grad_features[1], {0.018054, 0.018269, 0, -0.016100, -0.001119, -0.002595, -0.005200, 0},
         "dKL/dF_s");
  expect(out.grad_features[0], Values(8, 0.0), "the teacher is detached");
  expect(out.grad_classifiers[0].weight, Values(6, 0.0), "its classifier too");
}

// d = 0.2 and what the first network says of the samples, as its answer of an epoch ago.
const Settings kTemporal = {{"adm.alpha", "0"},       {"adm.beta", "1"},       {"adm.gamma", "0"},
                            {"adm.di_form", "kd"},    {"adm.preact", "false"}, {"adm.delta_first", "0.9"},
                            {"adm.delta_last", "0.2"}};
const Values kAnswers = {0.652991, 0.293408, 0.053601, 0.519885, 0.385140, 0.094974};

TEST_P(AdmGolden, DivergenceAsKl) {
  ProbeInput in = fixture(GetParam());
  in.parameters = {{0, "adm.predictions", {2, 3}, kAnswers, {}}};
  const ProbeOutput out = probe_method(*with_terms("independent", kTemporal), in);
  expect(out.loss, {kCe1 + 0.779600, kCe2}, "loss");
  const double per_row[] = {-0.303265, 0.175820, 0.127445, 0.175886, -0.286283, 0.110397};
  expect(out.grad_classifiers[0].bias,
         {per_row[0] + per_row[3], per_row[1] + per_row[4], per_row[2] + per_row[5]}, "d/dz_di, summed");
  expect(out.grad_features[1], Values(8, 0.0), "the student's maps are constants of L_di");
  expect(out.grad_classifiers[1].weight, Values(6, 0.0), "the student's classifier");
  // Of a sample without an answer there is the label alone: the cross-entropy.
  const ProbeOutput first = probe_method(*with_terms("independent", kTemporal), fixture(GetParam()));
  expect(first.loss, {kCe1 + 1.158006, kCe2}, "nothing said before");
}

// The same answers, given by the network that was.
TEST_P(AdmGolden, DivergenceAsKlFromAFormerTeacher) {
  const Settings settings = and_also(kTemporal, "adm.q", "frozen");
  ProbeInput in = fixture(GetParam());
  in.former = {kZ1, {}};
  const ProbeOutput out = probe_method(*with_terms("independent", settings), in);
  expect(out.loss, {kCe1 + 0.779600, kCe2}, "loss");
  EXPECT_TRUE(out.parameters.empty()) << "no table";
  const ProbeOutput first = probe_method(*with_terms("independent", settings), fixture(GetParam()));
  expect(first.loss, {kCe1 + 1.158006, kCe2}, "nobody was there before");
  for (const std::vector<Values>& strangers : {std::vector<Values>{{}, kZ2}, {{1, 2}, {}}}) {
    in.former = strangers;
    EXPECT_THROW(probe_method(*with_terms("independent", settings), in), Error);
  }
}

TEST_P(AdmGolden, WithoutTheReluInside) {
  const ProbeOutput co = run(and_also(kConsensus, "adm.preact", "false"));
  expect(co.loss, {kCe1, kCe2 + 1.099085}, "CE_co");
  expect(co.grad_features[1],
         {-0.104249, -0.105491, 0.011922, 0.012064, 0.106340, 0.246614, -0.089705, -0.208036}, "dF_s");
  const ProbeOutput di = run(and_also(kDivergence, "adm.preact", "false"));
  expect(di.loss, {kCe1 + 1.158006, kCe2}, "CE_di");
  expect(di.grad_features[0],
         {-0.198339, -0.178259, 0.203404, 0.182810, 0.051283, 0.035101, -0.204334, -0.139859}, "dF_t");
  const ProbeOutput kd = run(and_also(and_also(kConsensus, "adm.preact", "false"), "adm.co_form", "kd"));
  expect(kd.loss, {kCe1, kCe2 + 0.024419}, "KD co");
}

TEST_P(AdmGolden, FeatureTerm) {
  const ProbeOutput mse = run(kFeatures);
  expect(mse.loss, {kCe1, kCe2 + 0.132813}, "mse");
  expect(mse.grad_features[1], {-0.025, 0.075, -0.100, -0.025, 0.025, -0.0625, 0.150, -0.150}, "d mse");
  const ProbeOutput relu = run(and_also(kFeatures, "adm.feat_form", "relu"));
  expect(relu.loss, {kCe1, kCe2 + 0.040313}, "relu");
  expect(relu.grad_features[1], {-0.025, 0.025, 0, -0.025, 0.025, -0.0625, 0.075, 0}, "d relu");
  const ProbeOutput norm = run(and_also(kFeatures, "adm.feat_form", "norm"));
  expect(norm.loss, {kCe1, kCe2 + 0.647882}, "norm");
  expect(norm.grad_features[1],
         {-0.047706, 0.238528, -0.415945, -0.103986, 0.378356, -0.504474, 0.133128, 0.099846}, "d norm");
  // Two of eight squares go, 0.36 both; of each sample one of four, of the second's either 0.36.
  const ProbeOutput drop = run(and_also(kFeatures, "adm.feat_form", "drop"));
  expect(drop.loss, {kCe1, kCe2 + 0.057083}, "drop");
  expect(drop.grad_features[1], {-0.1 / 3, 0.1, -0.4 / 3, -0.1 / 3, 0.1 / 3, -0.25 / 3, 0, 0}, "d drop");
  const ProbeOutput per_sample =
      run(and_also(and_also(kFeatures, "adm.feat_form", "drop"), "adm.drop", "sample"));
  expect(per_sample.loss, {kCe1, kCe2 + 0.090417}, "drop per sample");
  Values certain = per_sample.grad_features[1];
  certain.resize(6);
  expect(certain, {-0.1 / 3, 0.1, 0, -0.1 / 3, 0.1 / 3, -0.25 / 3}, "d drop per sample");
  for (const ProbeOutput* out : {&norm, &drop, &per_sample})
    expect(out->grad_features[0], Values(8, 0.0), "the teacher is detached");
  Settings stages = kFeatures;
  stages.back().second = "stages";
  expect(run(stages).loss, {kCe1, kCe2 + 0.132813 / 2}, "the last of several stages weighs a half");
}

TEST_P(AdmGolden, JoinsAFrozenTeacher) {
  const std::unique_ptr<Method> method = with_terms("kd", {});
  const ProbeOutput out = probe_method(*method, fixture(GetParam()));
  EXPECT_NEAR(out.loss[1], 1.887413, tolerance()) << "alpha 1, nothing else";
  expect(out.grad_features[0], Values(8, 0.0), "the frozen teacher's maps");
}

// Networks whose maps differ in channels and size: adapters, pooling and weight maps of both sizes.
ProbeInput heterogeneous(std::uint64_t seed = 5) {
  ProbeInput in{.rows = 3, .classes = 4, .labels = {3, 0, 2}};
  Rng rng({.seed = seed});
  const auto draw = [&](std::int64_t count) {
    Values values(static_cast<std::size_t>(count));
    for (double& v : values) v = rng.normal();
    return values;
  };
  const std::int64_t channels[] = {5, 3, 4}, side[] = {4, 2, 4};
  for (std::size_t k = 0; k < 3; ++k) {
    in.logits.push_back(draw(12));
    in.features.push_back({channels[k], side[k], side[k], draw(3 * channels[k] * side[k] * side[k])});
    in.classifiers.push_back({draw(4 * channels[k]), draw(4)});
  }
  return in;
}

class AdmRoles : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Teachers, AdmRoles, testing::Values("0", "1", "0,2"), [](const auto& p) {
  std::string name = std::string("t") + p.param;
  std::replace(name.begin(), name.end(), ',', '_');
  return name;
});

// The losses' sum, differentiated in the classifiers, on which no detached quantity depends.
TEST_P(AdmRoles, GradientsOfTheClassifiersAreThoseOfTheLosses) {
  for (const char* form : {"ce", "kd"}) {
    const Settings settings = {{"adm.alpha", "0.7"}, {"adm.beta", "0.4"},   {"adm.gamma", "0.3"},
                               {"adm.T", "2"},       {"adm.co_form", form}, {"adm.teachers", GetParam()}};
    ProbeInput in = heterogeneous();
    const auto run = [&] { return probe_method(*with_terms("independent", settings), in); };
    const ProbeOutput at = run();
    for (std::size_t k = 0; k < 3; ++k) {
      // The KL form teaches with the teacher's classifier, which does not learn from it.
      const bool teacher = std::string(GetParam()).find(std::to_string(k)) != std::string::npos;
      if (teacher && std::string(form) == "kd") continue;
      const auto own_loss = [&] { return run().loss[k]; };
      ProbeClassifier& fc = in.classifiers[k];
      EXPECT_EQ(gradcheck(own_loss, fc.weight.data(), static_cast<std::int64_t>(fc.weight.size()),
                          at.grad_classifiers[k].weight),
                "")
          << form << " " << k;
      EXPECT_EQ(gradcheck(own_loss, fc.bias.data(), 4, at.grad_classifiers[k].bias), "") << form << " " << k;
    }
  }
}

// L_feat alone, differentiated in the student's map and in the adapters, whatever its form. (Of this draw no
// number lies so close to a ReLU's or the border's jump that a difference steps over it.)
class AdmFeatureForm : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Forms, AdmFeatureForm, testing::Values("mse", "relu", "norm", "drop"),
                         [](const auto& p) { return p.param; });

TEST_P(AdmFeatureForm, GradientsAreThoseOfTheLoss) {
  const Settings settings = {{"adm.alpha", "0"},      {"adm.beta", "0"},      {"adm.gamma", "0.7"},
                             {"adm.teachers", "0,2"}, {"adm.drop", "sample"}, {"adm.feat_form", GetParam()}};
  ProbeInput in = heterogeneous(7);
  const auto run = [&] { return probe_method(*with_terms("independent", settings), in); };
  const auto loss = [&] { return run().loss[1]; };
  in.parameters = run().parameters;
  ASSERT_EQ(in.parameters.size(), 2u) << "an adapter to each teacher";
  const ProbeOutput at = run();
  ProbeMap& map = in.features[1];
  EXPECT_EQ(
      gradcheck(loss, map.values.data(), static_cast<std::int64_t>(map.values.size()), at.grad_features[1]),
      "");
  for (std::size_t i = 0; i < in.parameters.size(); ++i) {
    Values& values = in.parameters[i].values;
    EXPECT_EQ(
        gradcheck(loss, values.data(), static_cast<std::int64_t>(values.size()), at.parameters[i].gradient),
        "")
        << in.parameters[i].name;
  }
  EXPECT_EQ(at.grad_features[0], Values(at.grad_features[0].size(), 0.0)) << "teachers are detached";
}

// The target is a constant: through the whole of L_di, with a temperature, two teachers, answers of some.
TEST(AdmTemporal, GradientsAreThoseOfTheLoss) {
  Settings settings = kTemporal;
  settings.insert(settings.end(), {{"adm.T", "2"}, {"adm.teachers", "0,2"}});
  ProbeInput in = heterogeneous();
  const Values some = {0.1, 0.2, 0.3, 0.4, 0, 0, 0, 0, 0.7, 0.1, 0.1, 0.1};
  for (const bool frozen : {false, true}) {
    if (frozen) {
      settings = and_also(settings, "adm.q", "frozen");
      in.parameters.clear();
      in.former = {some, {}, some};
    } else {
      in.parameters = {{0, "adm.predictions", {3, 4}, some, {}}, {2, "adm.predictions", {3, 4}, some, {}}};
    }
    const auto run = [&] { return probe_method(*with_terms("independent", settings), in); };
    const ProbeOutput at = run();
    for (const std::size_t k : {0U, 2U}) {
      const auto loss = [&] { return run().loss[k]; };
      ProbeClassifier& fc = in.classifiers[k];
      EXPECT_EQ(gradcheck(loss, fc.weight.data(), static_cast<std::int64_t>(fc.weight.size()),
                          at.grad_classifiers[k].weight),
                "")
          << frozen;
      EXPECT_EQ(gradcheck(loss, fc.bias.data(), 4, at.grad_classifiers[k].bias), "") << frozen;
    }
  }
}

test::RunOptions temporal_run(int epochs, const std::string& first, const std::string& last) {
  return {.method = "adm",
          .settings = {{"adm.beta", "1"},
                       {"adm.di_form", "kd"},
                       {"adm.delta_first", first},
                       {"adm.delta_last", last}},
          .epochs = epochs,
          .images = 60};
}

// d is linear from the first epoch to the last, and in the first there is no answer to mix in.
TEST(AdmTemporal, TheShareFollowsTheEpochs) {
  const auto weights_after = [](const test::RunOptions& options, std::int64_t steps) {
    test::TestRun run(options);
    run.recorder.stop_at = steps;
    run.trainer->run();
    return run.weights(0);
  };
  const std::int64_t epoch = test::TestRun(temporal_run(3, "0", "0")).trainer->steps_per_epoch();
  const Values labels[] = {weights_after(temporal_run(3, "0", "0"), epoch),
                           weights_after(temporal_run(3, "0", "0"), 2 * epoch),
                           weights_after(temporal_run(2, "0", "0"), 2 * epoch)};
  EXPECT_EQ(weights_after(temporal_run(3, "0.9", "0"), epoch), labels[0]) << "no answers yet";
  EXPECT_NE(weights_after(temporal_run(3, "0.9", "0"), 2 * epoch), labels[1]) << "d = 0.45";
  EXPECT_EQ(weights_after(temporal_run(2, "0.9", "0"), 2 * epoch), labels[2]) << "the last epoch's d is 0";
  EXPECT_NE(weights_after(temporal_run(2, "0", "0.6"), 2 * epoch), labels[2]);
}

// Every image that is trained on has an answer, the others none; a run goes on with them to the same bits.
TEST(AdmTemporal, AnswersAreStoredByImageAndCheckpointed) {
  const test::RunOptions options = temporal_run(3, "0.2", "0.6");
  test::TestRun whole(options);
  whole.trainer->run();
  const auto parts = whole.cohort->method().extra_parameters(0);
  ASSERT_EQ(parts.size(), 1u);
  const Values table = download_values(whole.context(), parts[0]->buffers().front().value);
  ASSERT_EQ(table.size(), 60u * 5u);
  for (std::size_t i = 0; i < 60; ++i) {
    double sum = 0;
    for (std::size_t c = 0; c < 5; ++c) sum += table[i * 5 + c];
    EXPECT_NEAR(sum, i % 9 == 0 ? 0 : 1, 1e-6) << i;
  }
  for (const std::int64_t stop : {1, 3, 5}) {
    test::TestRun first(options), second(options);
    first.recorder.stop_at = stop;
    first.trainer->run();
    second.trainer->restore(first.trainer->state());
    second.trainer->run();
    const std::vector<NamedBytes> a = whole.trainer->state(), b = second.trainer->state();
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i)
      EXPECT_TRUE(a[i].bytes == b[i].bytes) << a[i].name << " " << stop;
  }
}

// One after the other: every teacher's answer is stored once a step, in its own turn.
TEST(AdmTemporal, WhereNetworksTakeTurns) {
  test::RunOptions options = temporal_run(2, "0.5", "0.5");
  options.settings.emplace_back("dml.update", "in-turn");
  test::TestRun run(options);
  run.trainer->run();
  options.settings[2].second = options.settings[3].second = "0";
  test::TestRun labels(options);
  labels.trainer->run();
  const auto steps = static_cast<std::size_t>(run.trainer->steps_per_epoch());
  for (std::size_t i = 0; i < run.recorder.steps.size(); ++i) {
    const bool same = run.recorder.steps[i].members[0].loss == labels.recorder.steps[i].members[0].loss;
    EXPECT_EQ(same, i < steps) << "step " << i << ": answers are those of the epoch before";
  }
}

// SwitOKD's expert mode: the teacher is not updated, so nothing is asked of it; the student's terms stay.
TEST(Adm, APausedTeacherHasNoDivergenceTerm) {
  for (const char* form : {"ce", "kd"}) {
    const Settings settings = {
        {"adm.alpha", "1"}, {"adm.beta", "1"}, {"adm.gamma", "0"}, {"adm.di_form", form}};
    const ProbeInput expert = fixture(true);
    const ProbeOutput paused = probe_method(*with_terms("switokd", settings), expert);
    ASSERT_EQ(paused.step_mask, (Values{0, 1}));
    EXPECT_EQ(paused.loss[0], 0) << form;
    EXPECT_EQ(paused.grad_features[0], Values(8, 0.0)) << form;
    EXPECT_EQ(paused.grad_classifiers[0].weight, Values(6, 0.0)) << form;
    EXPECT_NEAR(paused.loss[1], 1.315154 + 1.020969, 2e-6) << "the student's, L_co included";
    ProbeInput learning = expert;
    std::swap(learning.logits[0], learning.logits[1]);
    const ProbeOutput both = probe_method(*with_terms("switokd", settings), learning);
    ASSERT_EQ(both.step_mask, (Values{1, 1}));
    EXPECT_NEAR(both.loss[0], 1.315154 + 1.064543, 2e-6) << "with the same maps L_di is that of the golden";
  }
}

TEST(Adm, IdenticalNetworksAgreeEverywhere) {
  ProbeInput in = fixture(true);
  in.features[1] = in.features[0];
  in.classifiers[1] = in.classifiers[0];
  const ProbeOutput out =
      probe_method(*with_terms("independent", and_also(kConsensus, "adm.co_form", "kd")), in);
  EXPECT_EQ(out.grad_features[1], Values(8, 0.0)) << "the same places, the same answer";
  // Nothing to disagree about: plain pooling instead of pooling zeros.
  const ProbeOutput di = probe_method(*with_terms("independent", kDivergence), in);
  EXPECT_NE(di.grad_features[0], Values(8, 0.0));
}

// What a method does between epochs and keeps in the checkpoint, it does and keeps with the terms too.
TEST(Adm, AMethodKeepsItsOwnState) {
  const test::RunOptions options{.method = "kdcl-general", .add = "adm"};
  test::TestRun run(options);
  EXPECT_TRUE(run.cohort->method().wants_held_out());
  const Values before = run.cohort->method().state();
  ASSERT_EQ(before, Values(2, 0.5));
  run.trainer->run();
  const Values after = run.cohort->method().state();
  ASSERT_EQ(after.size(), 2u);
  EXPECT_NE(after, before);
  test::TestRun resumed(options);
  resumed.trainer->restore(run.trainer->state());
  EXPECT_EQ(resumed.cohort->method().state(), after);
}

TEST(Adm, WrongRolesAreRefused) {
  const auto refuse = [](const std::string& teachers, int members) {
    try {
      with_terms("independent", {{"adm.teachers", teachers}})->check_members(members);
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kUsage;
    }
    return false;
  };
  EXPECT_TRUE(refuse("2", 2));
  EXPECT_TRUE(refuse("0,1", 2)) << "nobody learns";
  EXPECT_TRUE(refuse("", 2));
  EXPECT_TRUE(refuse("0,", 2));
  EXPECT_TRUE(refuse("a", 2));
  EXPECT_FALSE(refuse("1", 2));
  EXPECT_THROW(with_terms("adm", {}), Error) << "it has these terms";
  EXPECT_THROW(with_terms("competitive", {}), Error) << "a perturbed network's places match nobody's";
}

}  // namespace
}  // namespace cohort::distill
