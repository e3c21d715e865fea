// NORM: its golden numbers, the whole of it against differences, its schedule, and what its weight files
// hold.
#include <gtest/gtest.h>

#include <cmath>

#include "distill/method_probe.h"
#include "tests/support/tolerance.h"
#include "tests/support/whole_step.h"

namespace cohort::distill {
namespace {

using test::RunOptions;
using test::TestRun;
using Values = std::vector<double>;

class NormGolden : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Precision, NormGolden, testing::Values(true, false),
                         [](const auto& p) { return p.param ? "f64" : "f32"; });

// E(x) = concat(x, x / 2): a convolution that says so, and a batch normalisation that undoes itself.
TEST_P(NormGolden, FeatureTermOfTwoCopies) {
  const Values f2 = {0.5, 0.1, -0.1, 0.4, 0.2, 0.15, 0.3, -0.4};
  Values gamma, beta;
  for (const double scale : {1.0, 0.5}) {
    for (const std::size_t channel : {0U, 2U}) {
      double mean = 0, variance = 0;
      for (const std::size_t i : {0U, 1U, 4U, 5U}) mean += scale * f2[channel + i] / 4;
      for (const std::size_t i : {0U, 1U, 4U, 5U})
        variance += (scale * f2[channel + i] - mean) * (scale * f2[channel + i] - mean) / 4;
      gamma.push_back(std::sqrt(variance + 1e-5));
      beta.push_back(mean);
    }
  }
  const MethodInfo& info = find_method("norm");
  MethodOptions options(info.options);
  options.set("norm.N", "2");
  options.set("norm.ln", "false");
  const ProbeInput in{
      .double_precision = GetParam(),
      .rows = 2,
      .classes = 3,
      .logits = {{2.0, 1.2, -0.5, 0.9, 0.6, -0.8}, {1.0, -0.5, 1.2, -0.6, 1.4, 0.8}},
      .labels = {0, 1},
      .features = {{2, 1, 2, {0.6, -0.2, 0.3, 0.5, 0.1, 0.4, -0.3, 0.2}}, {2, 1, 2, f2}},
      .parameters = {{1, "norm.expand.conv.weight", {4, 2, 1, 1}, {1, 0, 0, 1, 0.5, 0, 0, 0.5}, {}},
                     {1, "norm.expand.bn.weight", {4}, gamma, {}},
                     {1, "norm.expand.bn.bias", {4}, beta, {}}}};
  const ProbeOutput out = probe_method(*info.make(options), in);
  const double tolerance = GetParam() ? 2e-6 : 1e-5;
  EXPECT_NEAR(out.loss[1] - 0.707557, 0.241016, tolerance);
  const Values ce = {-0.295462, 0.045639, 0.249823, 0.040179, -0.203114, 0.162935};
  EXPECT_TRUE(test::all_near(out.grad_logits[1], ce, tolerance));
  EXPECT_EQ(out.grad_features[0], Values(8, 0.0)) << "the teacher is frozen";
  EXPECT_EQ(out.parameters.front().values.front(), 1.0) << "what was given took the place of what was drawn";
}

TEST(Norm, RefusesTensorsThatItDoesNotHave) {
  const MethodInfo& info = find_method("norm");
  ProbeInput in{.rows = 1, .classes = 2, .logits = {{0, 1}, {1, 0}}, .labels = {0}};
  EXPECT_THROW(probe_method(*info.make(MethodOptions(info.options)), in), Error) << "no maps";
  in.features = {{1, 1, 1, {1}}, {1, 1, 1, {1}}};
  in.parameters = {{1, "norm.expand.bn.weight", {3}, {1, 1, 1}, {}}};
  EXPECT_THROW(probe_method(*info.make(MethodOptions(info.options)), in), Error) << "eight, not three";
  in.parameters.clear();
  in.features = {{1, 3, 3, Values(9, 1)}, {1, 2, 2, Values(4, 1)}};
  EXPECT_THROW(probe_method(*info.make(MethodOptions(info.options)), in), Error) << "3x3 beside 2x2";
}

// Through the student, what stands behind it and its classifier.
TEST(Norm, GradientsAgreeWithDifferences) {
  for (const char* ln : {"true", "false"}) {
    test::WholeStep step(
        {.method = "norm",
         .settings = {{"norm.a", "0.7"}, {"norm.g", "0.5"}, {"norm.N", "3"}, {"norm.ln", ln}},
         .models = {"resnet8", "wrn_16_2"}});
    const ParameterSet& student = step.run.parameters(1);
    const ParameterSet& bridge = *step.run.cohort->method().extra_parameters(1).front();
    for (const char* name : {"conv1.weight", "block3.layer.1.conv2.weight", "fc.weight"})
      step.expect_gradient(student, name);
    for (const char* name : {"norm.expand.conv.weight", "norm.expand.bn.weight", "norm.reduce.conv.weight",
                             "norm.reduce.bn.bias"})
      step.expect_gradient(bridge, name);
  }
}

// Whatever the training has made of E and R, a weight file holds a plain network that answers the same.
TEST(Norm, WeightFilesHoldPlainNetworks) {
  TestRun run({.method = "norm", .epochs = 3});
  run.trainer->run();
  const ImageSet set = test::patterns(20, 5, 3, 1);
  const std::vector<std::int32_t> indices = {0, 3, 7, 11, 19};
  const auto answers = run.cohort->predict(to_device(run.context(), set), indices);
  TestRun plain({.method = "independent"});
  for (const NamedBytes& file : run.trainer->state()) {
    for (std::size_t k = 0; k < 2; ++k) {
      if (file.name == std::string(1, static_cast<char>('a' + k)) + ".safetensors")
        load_weights(plain.context(), *plain.cohort->members()[k].network, file.bytes, file.name);
    }
  }
  EXPECT_NE(plain.weights(1), run.weights(1)) << "the classifier makes up for E and R";
  const auto same = plain.cohort->predict(to_device(plain.context(), set), indices);
  ASSERT_EQ(same[1].size(), answers[1].size());
  float largest = 0;
  for (const float z : answers[1]) largest = std::max(largest, std::abs(z));
  for (std::size_t i = 0; i < same[1].size(); ++i)
    EXPECT_NEAR(same[1][i], answers[1][i], 2e-5F * (1 + largest)) << i;
  EXPECT_EQ(same[0], answers[0]) << "the teacher is plain anyway";
}

// 0.1 before epoch 10, 0.5 before 20: from device memory, with nothing learnt between them.
TEST(Norm, TheFeatureTermFollowsItsSchedule) {
  TestRun run({.method = "norm", .epochs = 12, .learning_rate = 0, .augment = false, .batch_size = 128});
  run.trainer->run();
  ASSERT_EQ(run.recorder.steps.size(), 12U);
  const auto feature = [&](std::size_t epoch) { return run.recorder.steps[epoch].members[1].feature; };
  EXPECT_GT(feature(0), 0);
  EXPECT_NEAR(feature(9) / feature(0), 1, 1e-4);
  EXPECT_NEAR(feature(10) / feature(0), 5, 1e-3);
}

}  // namespace
}  // namespace cohort::distill
