// What only the emulated device can show of training: that no order in which a GPU may run what is queued
// changes a bit, and what an epoch asks of the host.
#if defined(COHORT_EMULATED_DEVICE)
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "simt/runtime/runtime.h"
#include "tests/support/tiny_training.h"

namespace cohort::distill {
namespace {

using test::RunOptions;
using test::TestRun;

RunOptions tiny(const std::string& method) {
  RunOptions options{.method = method,
                     .poison = true,
                     .epochs = 4,
                     .device = {DeviceKind::kCuda, 0},
                     .images = 14,
                     .batch_size = 4};
  if (method == "competitive") options.settings = {{"cd.perturb", "true"}};
  return options;
}

class EmulatedTraining : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!kHasCuda) GTEST_SKIP() << "built without the CUDA backend";
  }
  void TearDown() override { simt::set_order({}); }
};
INSTANTIATE_TEST_SUITE_P(Methods, EmulatedTraining, testing::ValuesIn(test::method_names()),
                         test::MethodAsTestName());

class EmulatedAnswers : public testing::Test {
 protected:
  void SetUp() override {
    if (!kHasCuda) GTEST_SKIP() << "built without the CUDA backend";
  }
  void TearDown() override { simt::set_order({}); }
};

// Weights, momenta and counters after four epochs: two eager and two replayed.
std::vector<NamedBytes> trained(const RunOptions& options, simt::StreamOrder order) {
  simt::set_order(order);
  TestRun run(options);
  run.trainer->run();
  EXPECT_TRUE(run.cohort->replaying());
  return run.trainer->state();
}

// ADM with its table of answers, which a step reads and writes.
RunOptions with_answers() {
  RunOptions options = tiny("adm");
  options.settings = {{"adm.di_form", "kd"}, {"adm.beta", "1"}, {"adm.feat_form", "drop"}};
  options.epochs = 2;
  options.learning_rate = 1e-3;  // roundings stay roundings
  return options;
}

TEST_F(EmulatedAnswers, AreThoseOfTheCpuInAnyOrderOfTheQueues) {
  RunOptions options = with_answers();
  const auto answers = [](TestRun& run) {
    const auto parts = run.cohort->method().extra_parameters(0);
    return download_values(run.context(), parts.back()->buffers().front().value);
  };
  std::vector<double> expected;
  for (const simt::StreamOrder order :
       {simt::StreamOrder{simt::Order::kFifo, 0}, simt::StreamOrder{simt::Order::kReverse, 0}}) {
    simt::set_order(order);
    TestRun run(options);
    run.trainer->run();
    EXPECT_TRUE(run.cohort->replaying());
    if (expected.empty()) expected = answers(run);
    EXPECT_EQ(answers(run), expected);
  }
  simt::set_order({});
  options.device = {};
  TestRun cpu(options);
  cpu.trainer->run();
  const std::vector<double> on_cpu = answers(cpu);
  ASSERT_EQ(on_cpu.size(), expected.size());
  for (std::size_t i = 0; i < on_cpu.size(); ++i) EXPECT_NEAR(expected[i], on_cpu[i], 2e-3) << i;
}

// What a teacher said of an epoch's images, where the teacher that was is asked: its term in every step.
TEST_F(EmulatedAnswers, OfAFormerTeacherAreThoseOfTheCpu) {
  RunOptions options = with_answers();
  options.settings.insert(options.settings.end(), {{"adm.q", "frozen"}, {"adm.alpha", "0"}});
  const auto terms = [](TestRun& run) {
    run.trainer->run();
    std::vector<double> values;
    for (const StepRecord& step : run.recorder.steps) values.push_back(step.members[0].feature);
    return values;
  };
  TestRun emulated(options);
  const std::vector<double> actual = terms(emulated);
  EXPECT_TRUE(emulated.cohort->replaying());
  options.device = {};
  TestRun cpu(options);
  const std::vector<double> expected = terms(cpu);
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 2e-3) << i;
}

void expect_same_in_every_order(const RunOptions& options) {
  const std::vector<NamedBytes> expected = trained(options, {simt::Order::kFifo, 0});
  for (const simt::StreamOrder order :
       {simt::StreamOrder{simt::Order::kForward, 0}, simt::StreamOrder{simt::Order::kReverse, 0},
        simt::StreamOrder{simt::Order::kRandom, 5}}) {
    const std::vector<NamedBytes> state = trained(options, order);
    ASSERT_EQ(state.size(), expected.size());
    for (std::size_t i = 0; i < state.size(); ++i) {
      EXPECT_TRUE(state[i].bytes == expected[i].bytes) << simt::to_string(order) << ": " << expected[i].name;
    }
  }
}

TEST_P(EmulatedTraining, NoOrderOfTheQueuesChangesABit) {
  expect_same_in_every_order(tiny(GetParam()));
}

// Splits within splits: parts of two networks run on the branch of one.
TEST(EmulatedPairs, NoOrderChangesABitOfHeadsInPairs) {
  if (!kHasCuda) GTEST_SKIP() << "built without the CUDA backend";
  RunOptions options = tiny("clnn");
  options.settings = {{"clnn.pairs", "3"}};
  options.models = std::vector<std::string>(4, "resnet8");
  options.epochs = 3;
  expect_same_in_every_order(options);
  simt::set_order({});
}

TEST_F(EmulatedAnswers, OfAFormerTeacherChangeInNoOrder) {
  RunOptions options = with_answers();
  options.settings.emplace_back("adm.q", "frozen");
  options.epochs = 3;
  expect_same_in_every_order(options);
}

TEST_P(EmulatedTraining, AnEpochNeedsNothingFromTheHost) {
  TestRun run(tiny(GetParam()));
  const ImageSet set = test::patterns(30, 5, 3, 0);
  const DeviceImages images = to_device(run.context(), set);
  std::vector<std::int32_t> indices(30);
  std::iota(indices.begin(), indices.end(), 0);
  Feed feed = run.cohort->make_feed(images, indices, 4, /*shuffle=*/true);
  const auto steps = static_cast<std::size_t>(feed.steps_per_epoch());
  const std::vector<float> rates = run.cohort->rate_table({steps, std::vector<double>(2, 0.05)});
  for (int epoch = 0; epoch < 4; ++epoch) {
    feed.start(epoch, 0, rates);
    run.context().synchronize();
    const bool captured = epoch == 3;  // steps of both sizes
    const auto calls = [] {
      return std::vector<int>{simt::calls("cudaMemcpyAsync"),
                              simt::calls("launch"),
                              simt::calls("cudaMalloc"),
                              simt::calls("cudaMemsetAsync"),
                              simt::calls("cudaStreamSynchronize"),
                              simt::calls("cudaDeviceSynchronize"),
                              simt::calls("cudaEventSynchronize"),
                              simt::calls("cudaEventQuery")};
    };
    const std::vector<int> before = calls();
    const int graphs = simt::calls("cudaGraphLaunch");
    for (std::size_t i = 0; i < steps; ++i) run.cohort->train(feed);
    if (!captured) continue;
    EXPECT_EQ(calls(), before) << "copies, kernels, memory, waits";
    EXPECT_EQ(simt::calls("cudaGraphLaunch") - graphs, static_cast<int>(steps));
    EXPECT_GT(simt::num_pending(), 0) << "the host is ahead of the device";
  }
  run.context().synchronize();
}

}  // namespace
}  // namespace cohort::distill
#endif
