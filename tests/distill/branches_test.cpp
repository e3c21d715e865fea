// Networks that share their first parts: ONE and CLNN. Golden numbers, the whole of them against
// differences, and what the parts that exist once mean for statistics, files and settings.
#include <gtest/gtest.h>

#include <cmath>

#include "core/ops/epoch_weights.h"
#include "distill/method_probe.h"
#include "tests/support/tolerance.h"
#include "tests/support/whole_step.h"

namespace cohort::distill {
namespace {

using test::RunOptions;
using test::TestRun;
using Settings = std::vector<std::pair<std::string, std::string>>;
using Values = std::vector<double>;

const Values kZ1 = {2.0, 1.2, -0.5, 0.9, 0.6, -0.8};
const Values kZ2 = {1.0, -0.5, 1.2, -0.6, 1.4, 0.8};

class BranchesGolden : public testing::TestWithParam<bool> {
 protected:
  double tolerance() const { return GetParam() ? 2e-6 : 1e-5; }

  ProbeOutput run(const std::string& method, const Settings& settings, const Values& gate = {}) const {
    const MethodInfo& info = find_method(method);
    MethodOptions options(info.options);
    for (const auto& [key, value] : settings) options.set(key, value);
    return probe_method(*info.make(options), {.double_precision = GetParam(),
                                              .rows = 2,
                                              .classes = 3,
                                              .logits = {kZ1, kZ2},
                                              .labels = {0, 1},
                                              .gate = gate});
  }
  void expect(const Values& actual, const Values& golden) const {
    EXPECT_TRUE(test::all_near(actual, golden, tolerance()));
  }
};
INSTANTIATE_TEST_SUITE_P(Precision, BranchesGolden, testing::Values(true, false),
                         [](const auto& p) { return p.param ? "f64" : "f32"; });

TEST_P(BranchesGolden, One) {
  const ProbeOutput out = run("one", {}, {0.6, 0.4, 0.3, 0.7});
  EXPECT_NEAR(out.loss[0] + out.loss[1], 2.366403, tolerance());
  EXPECT_NEAR(out.loss[0], 0.690169 + 0.263904 + 0.494891, tolerance());
  EXPECT_NEAR(out.loss[1], 0.707557 + 0.209882, tolerance());
  expect(out.grad_logits[0], {-0.248518, 0.282262, -0.033744, 0.486928, -0.444765, -0.042163});
  expect(out.grad_logits[1], {-0.454720, -0.022327, 0.477047, 0.022367, -0.328720, 0.306353});
  expect(out.gate, {0.6, 0.4, 0.3, 0.7});
  expect(out.grad_gate, {-0.276973, -0.145781, -0.153817, -0.234691});
}

TEST_P(BranchesGolden, Clnn) {
  const ProbeOutput out = run("clnn", {});
  expect(out.loss, {2.823160, 2.782037});
  expect(out.grad_logits[0], {-0.025220, 0.152998, -0.127778, 0.261262, -0.202746, -0.058516});
  expect(out.grad_logits[1], {-0.209263, -0.056827, 0.266090, -0.111201, -0.052525, 0.163726});
  const ProbeOutput plain = run("clnn", {{"clnn.t2", "false"}});
  expect(plain.loss, {0.964603, 0.960843});
  expect(plain.grad_logits[0], {-0.071369, 0.093264, -0.021894, 0.162794, -0.165973, 0.003179});
}

// Of two heads OKDDip's form is mutual learning at its temperature.
TEST_P(BranchesGolden, ClnnInOkddipsForm) {
  const MethodInfo& info = find_method("dml");
  MethodOptions options(info.options);
  options.set("dml.T", "3");
  const ProbeOutput dml = probe_method(
      *info.make(options),
      {.double_precision = GetParam(), .rows = 2, .classes = 3, .logits = {kZ1, kZ2}, .labels = {0, 1}});
  const ProbeOutput out = run("clnn", {{"clnn.form", "okddip"}, {"clnn.T", "3"}});
  expect(out.loss, dml.loss);
  for (std::size_t k = 0; k < 2; ++k) expect(out.grad_logits[k], dml.grad_logits[k]);
}

TEST(Branches, RampUp) {
  const Values ramp = ops::ramp_up(80);
  ASSERT_EQ(ramp.size(), 81U);
  EXPECT_NEAR(ramp[0], .006738, 1e-6);
  EXPECT_NEAR(ramp[20], .060055, 1e-6);
  EXPECT_NEAR(ramp[40], .286505, 1e-6);
  EXPECT_EQ(ramp[80], 1);
  EXPECT_EQ(ops::ramp_up(0), Values{1});
}

TEST(Branches, OneNeedsAGateOrAMap) {
  const MethodInfo& info = find_method("one");
  ProbeInput in{.rows = 1, .classes = 2, .logits = {{0, 1}, {1, 0}}, .labels = {0}};
  const auto refused = [&] {
    try {
      probe_method(*info.make(MethodOptions(info.options)), in);
    } catch (const Error& e) {
      return e.kind() == ErrorKind::kUsage;
    }
    return false;
  };
  EXPECT_TRUE(refused());
  in.gate = {0.5, 0.6};
  EXPECT_TRUE(refused()) << "no distribution";
  in.gate = {0.25, 0.75};
  EXPECT_FALSE(refused());
}

// The whole of ONE but its constant target: shared parts, branches, gate.
TEST(Branches, GradientsOfOneAgreeWithDifferences) {
  for (const char* model : {"resnet8", "wrn_16_2"}) {
    test::WholeStep step(
        {.method = "one", .settings = {{"one.lambda", "0"}}, .models = {model, model, model}});
    const bool wide = std::string(model) == "wrn_16_2";
    for (const char* name : {"conv1.weight", wide ? "block2.layer.0.bn2.weight" : "layer2.0.bn1.weight",
                             wide ? "block3.layer.0.conv1.weight" : "layer3.0.conv1.weight", "fc.weight"})
      step.expect_gradient(step.run.parameters(0), name);
    step.expect_gradient(step.run.parameters(2), "fc.bias");
    const ParameterSet& gate = *step.run.cohort->method().extra_parameters(0).front();
    for (const char* name : {"gate.fc.weight", "gate.bn.weight", "gate.bn.bias"})
      step.expect_gradient(gate, name);
  }
}

// Heads have the gradient of the loss, shared parts the mean over the heads: a third of it.
TEST(Branches, GradientsOfClnnAgreeWithDifferences) {
  test::WholeStep step({.method = "clnn",
                        .settings = {{"clnn.beta", "1"}, {"clnn.shared", "2"}},
                        .models = {"resnet8", "resnet8", "resnet8"}});
  for (const char* name : {"conv1.weight", "layer1.0.conv2.weight"})
    step.expect_gradient(step.run.parameters(0), name, 1.0 / 3);
  for (const std::size_t k : {0U, 1U, 2U}) {
    for (const char* name : {"layer2.0.conv1.weight", "fc.weight"})
      step.expect_gradient(step.run.parameters(k), name);
  }
}

// Four heads in pairs: what a pair has in common learns from the mean of two, what all have from the mean of
// two pairs. The order of sums is fixed, so that the same bits come of a resumed run.
TEST(Branches, EverySplitOfClnnDividesByItsFanOut) {
  const std::vector<std::string> models(4, "resnet8");
  test::WholeStep step({.method = "clnn",
                        .settings = {{"clnn.beta", "1"}, {"clnn.shared", "2"}, {"clnn.pairs", "3"}},
                        .models = models});
  for (const char* name : {"conv1.weight", "layer1.0.bn2.bias"})
    step.expect_gradient(step.run.parameters(0), name, 0.25);
  for (const std::size_t k : {0U, 2U})
    step.expect_gradient(step.run.parameters(k), "layer2.0.conv1.weight", 0.5);
  for (const std::size_t k : {1U, 2U}) step.expect_gradient(step.run.parameters(k), "layer3.0.conv1.weight");
  const auto of = [&](std::size_t k, const std::string& name) -> const Parameter& {
    for (const Parameter& p : step.run.parameters(k).parameters())
      if (p.name == name) return p;
    throw std::runtime_error("no parameter " + name);
  };
  for (const char* name : {"conv1.weight", "layer2.0.conv1.weight", "layer3.0.conv1.weight"}) {
    const bool all = std::string(name) == "conv1.weight", pair = std::string(name) == "layer2.0.conv1.weight";
    EXPECT_EQ(of(1, name).value.data == of(0, name).value.data, all || pair) << name;
    EXPECT_EQ(of(2, name).value.data == of(0, name).value.data, all) << name;
    EXPECT_EQ(of(3, name).value.data == of(2, name).value.data, all || pair) << name;
  }
}

TEST(Branches, HeadsInPairsTrainAndResumeBitwise) {
  const RunOptions options{.method = "clnn",
                           .settings = {{"clnn.pairs", "3"}},
                           .models = std::vector<std::string>(4, "resnet8"),
                           .poison = true};
  TestRun whole(options);
  whole.trainer->run();
  TestRun first(options);
  first.recorder.stop_at = 2;
  first.trainer->run();
  TestRun second(options);
  second.trainer->restore(first.trainer->state());
  second.trainer->run();
  const std::vector<NamedBytes> expected = whole.trainer->state(), resumed = second.trainer->state();
  ASSERT_EQ(resumed.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_TRUE(resumed[i].bytes == expected[i].bytes) << expected[i].name;
}

// Shared parts are run once a step: their statistics move as those of one network do.
TEST(Branches, SharedPartsExistOnce) {
  for (const char* method : {"one", "clnn"}) {
    TestRun run({.method = method, .learning_rate = 0});
    TestRun alone({.method = "independent", .learning_rate = 0});
    for (TestRun* r : {&run, &alone}) {
      r->recorder.stop_at = 2;
      r->trainer->run();
    }
    const auto& first = run.parameters(0).buffers();
    const auto& second = run.parameters(1).buffers();
    const auto& expected = alone.parameters(0).buffers();
    std::size_t shared = 0;
    for (std::size_t i = 0; i < first.size(); ++i) {
      if (!second[i].shared) continue;
      ++shared;
      EXPECT_EQ(second[i].value.data, first[i].value.data);
      EXPECT_EQ(download_values(run.context(), first[i].value),
                download_values(alone.context(), expected[i].value))
          << first[i].name;
    }
    EXPECT_GT(shared, 2U);
    EXPECT_LT(shared, first.size());
    EXPECT_LT(run.parameters(1).values().count(), run.parameters(0).values().count());
    EXPECT_EQ(run.parameters(1).num_parameters(), run.parameters(0).num_parameters());
  }
}

// A file per branch is a complete network: loaded alone, it answers with the same bits.
TEST(Branches, WeightFilesHoldCompleteNetworks) {
  for (const char* method : {"one", "clnn"}) {
    TestRun run({.method = method, .models = {"resnet8", "resnet8", "resnet8"}});
    run.trainer->run();
    const ImageSet set = test::patterns(20, 5, 3, 1);
    const std::vector<std::int32_t> indices = {0, 3, 7, 11, 19};
    const auto answers = run.cohort->predict(to_device(run.context(), set), indices);
    EXPECT_NE(answers[0], answers[1]);
    TestRun plain({.method = "independent", .models = {"resnet8", "resnet8", "resnet8"}});
    const std::vector<NamedBytes> files = run.trainer->state();
    for (std::size_t k = 0; k < 3; ++k)
      load_weights(plain.context(), *plain.cohort->members()[k].network, files[k].bytes, files[k].name);
    EXPECT_EQ(plain.cohort->predict(to_device(plain.context(), set), indices), answers);
  }
}

// What is loaded into a branch leaves the shared parts to the first network.
TEST(Branches, TheFirstFileGivesTheSharedParts) {
  TestRun source({.method = "independent"});
  TestRun run({.method = "one"});
  const auto bytes = [&](std::size_t k) {
    return serialize_weights(source.context(), *source.cohort->members()[k].network, 0, {});
  };
  for (std::size_t k = 0; k < 2; ++k)
    load_weights(run.context(), *run.cohort->members()[k].network, bytes(k), "init");
  const auto value = [](TestRun& of, std::size_t k, std::size_t i) {
    return download_values(of.context(), of.parameters(k).parameters()[i].value);
  };
  const std::size_t last = run.parameters(0).parameters().size() - 1;
  EXPECT_EQ(value(run, 1, 0), value(source, 0, 0));
  EXPECT_EQ(value(run, 1, last), value(source, 1, last));
}

TEST(Branches, RefusesWhatCannotBeShared) {
  const auto refused = [](const RunOptions& options) {
    try {
      TestRun run(options);
    } catch (const Error& e) {
      return e.kind() == ErrorKind::kUsage;
    }
    return false;
  };
  const std::vector<std::string> four(4, "resnet8"), three(3, "resnet8");
  EXPECT_TRUE(refused({.method = "clnn", .settings = {{"clnn.pairs", "3"}}, .models = three}));
  EXPECT_TRUE(refused({.method = "clnn", .settings = {{"clnn.pairs", "4"}}, .models = four}));
  EXPECT_TRUE(
      refused({.method = "clnn", .settings = {{"clnn.pairs", "2"}, {"clnn.shared", "2"}}, .models = four}));
  EXPECT_TRUE(refused({.method = "clnn", .settings = {{"clnn.pairs", "1"}}, .models = four}));
  for (const std::string method : {"one", "clnn"}) {
    EXPECT_TRUE(refused({.method = method, .models = {"resnet8", "wrn_16_2"}}));
    EXPECT_TRUE(refused({.method = method, .models = {"resnet8"}}));
    EXPECT_TRUE(refused({.method = method, .independent_augmentation = true}));
    EXPECT_TRUE(refused({.method = method, .settings = {{method + ".shared", "4"}}}));
    EXPECT_TRUE(refused({.method = method, .add = "adm"}));
    EXPECT_FALSE(refused({.method = method, .settings = {{method + ".shared", "3"}}}));
  }
}

}  // namespace
}  // namespace cohort::distill
