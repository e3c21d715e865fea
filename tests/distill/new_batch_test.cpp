// Networks that are updated one after the other, each on the epoch's next batch: every turn against a step of
// a simultaneous update on that batch, the batches that an epoch has left over, records, and the device.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/devices.h"
#include "tests/support/tiny_training.h"
#include "tests/support/whole_step.h"
#if defined(COHORT_EMULATED_DEVICE)
#include "simt/runtime/runtime.h"
#endif

namespace cohort::distill {
namespace {

using test::RunOptions;
using test::TestRun;
using Values = std::vector<double>;

// 88 images to train on, batches of 32, 32 and 24: two steps of two networks.
RunOptions dml(const std::string& update, int members = 2) {
  return {.method = "dml",
          .settings = {{"dml.update", update}},
          .models = std::vector<std::string>(static_cast<std::size_t>(members), "resnet8")};
}

// Weights, momenta and running statistics.
using Network = std::vector<Values>;

Network network(TestRun& run, std::size_t k) {
  ParameterSet& set = run.parameters(k);
  Network all = {download_values(run.context(), set.values()), download_values(run.context(), set.momenta())};
  for (const Buffer& b : set.buffers()) all.push_back(download_values(run.context(), b.value));
  return all;
}

void set_network(TestRun& run, std::size_t k, const Network& all) {
  ParameterSet& set = run.parameters(k);
  upload_values(run.context(), set.values(), all[0]);
  upload_values(run.context(), set.momenta(), all[1]);
  for (std::size_t i = 0; i < set.buffers().size(); ++i)
    upload_values(run.context(), set.buffers()[i].value, all[i + 2]);
  set.refresh_shadow(run.context());
}

void steps(TestRun& run, std::int64_t count) {
  run.recorder.stop_at = static_cast<std::int64_t>(run.recorder.steps.size()) + count;
  run.trainer->run();
}

// Turn by turn: batch j by all at once, from the networks as they stood before that turn; of the outcome only
// that network's is kept.
TEST(UpdateWithNewBatches, EveryTurnIsAStepOnTheNextBatch) {
  for (const int members : {2, 3}) {
    TestRun turns(dml("new-batch", members)), at_once(dml("simultaneous", members));
    ASSERT_EQ(at_once.trainer->steps_per_epoch(), 3);
    ASSERT_EQ(turns.trainer->steps_per_epoch(), members == 2 ? 2 : 1);
    const auto m = static_cast<std::size_t>(members);
    std::vector<Network> now;
    for (std::size_t k = 0; k < m; ++k) now.push_back(network(turns, k));
    for (std::size_t batch = 0; batch < 3; ++batch) {
      const std::size_t k = batch % m;
      if (k == 0) steps(turns, 1);
      for (std::size_t j = 0; j < m; ++j) set_network(at_once, j, now[j]);
      steps(at_once, 1);
      now[k] = network(at_once, k);
      const MemberStep &actual = turns.recorder.steps[batch / m].members[k],
                       &expected = at_once.recorder.steps[batch].members[k];
      EXPECT_EQ(actual.loss, expected.loss) << members << ", batch " << batch;
      EXPECT_EQ(actual.ce, expected.ce);
      EXPECT_EQ(actual.kl, expected.kl);
      EXPECT_EQ(actual.correct_top1, expected.correct_top1);
      EXPECT_EQ(actual.rows, at_once.recorder.steps[batch].rows);
      EXPECT_TRUE(actual.stepped && !actual.paused);
      if (k + 1 < m && batch < 2) continue;
      for (std::size_t j = 0; j < m; ++j)
        EXPECT_EQ(network(turns, j), now[j]) << members << ", batch " << batch << ", network " << j;
    }
  }
}

// The third batch is the first network's; the second has none.
TEST(UpdateWithNewBatches, WhoGetsNoBatchIsPausedAndStaysAsItIs) {
  TestRun run(dml("new-batch"));
  steps(run, 1);
  const Network before = network(run, 1);
  steps(run, 1);
  EXPECT_EQ(network(run, 1), before);
  const StepRecord& last = run.recorder.steps[1];
  EXPECT_EQ(run.recorder.steps[0].rows, 64);
  EXPECT_EQ(last.rows, 24);
  EXPECT_EQ(last.members[0].rows, 24);
  EXPECT_EQ(last.members[1].rows, 0);
  EXPECT_EQ(last.members[1].correct_top1, 0);
  EXPECT_TRUE(last.members[1].paused && last.members[1].stepped);
  EXPECT_EQ(run.cohort->members()[0].batches_tracked, 2);
  EXPECT_EQ(run.cohort->members()[1].batches_tracked, 1);
  // What is said of the epoch is per network, over its own images.
  ASSERT_EQ(run.recorder.epochs.size(), 1U);
  const std::vector<MemberStep>& first = run.recorder.steps[0].members;
  const EpochRecord& epoch = run.recorder.epochs[0];
  EXPECT_EQ(epoch.train_loss[0], (first[0].loss * 32 + last.members[0].loss * 24) / 56);
  EXPECT_EQ(epoch.train_top1[0], (first[0].correct_top1 + last.members[0].correct_top1) / 56.0);
  EXPECT_EQ(epoch.train_loss[1], first[1].loss);
  EXPECT_EQ(epoch.train_top1[1], first[1].correct_top1 / 32.0);
}

TEST(UpdateWithNewBatches, ARunGoesOnToTheSameBits) {
  for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
    RunOptions options = dml("new-batch");
    options.precision = precision;
    TestRun whole(options);
    whole.trainer->run();
    const std::vector<NamedBytes> expected = whole.trainer->state();
    for (const std::int64_t stop : {1, 2, 3}) {
      TestRun first(options), second(options);
      steps(first, stop);
      second.trainer->restore(first.trainer->state());
      second.trainer->run();
      const std::vector<NamedBytes> state = second.trainer->state();
      ASSERT_EQ(state.size(), expected.size());
      for (std::size_t i = 0; i < state.size(); ++i)
        EXPECT_TRUE(state[i].bytes == expected[i].bytes) << expected[i].name << " " << stop;
    }
  }
}

// The first network learns from the second, which learns from nobody: nothing else depends on its weights.
TEST(UpdateWithNewBatches, GradientsAreThoseOfTheOwnBatchsLoss) {
  RunOptions options = dml("new-batch");
  options.settings.emplace_back("dml.weights", "0,1;0,0");
  test::WholeStep step(options);
  // Of so many ReLUs one may be crossed: small steps.
  for (const char* name : {"conv1.weight", "fc.weight"})
    step.expect_gradient(step.run.parameters(0), name, 1, 1e-6);
}

TEST(UpdateWithNewBatches, WithTermsAnswersAndViewsOfTheirOwn) {
  for (const char* q : {"table", "frozen"}) {
    RunOptions options = dml("new-batch");
    options.method = "adm";
    options.settings.insert(options.settings.end(), {{"adm.di_form", "kd"}, {"adm.beta", "1"}, {"adm.q", q}});
    options.independent_augmentation = true;
    options.epochs = 3;
    TestRun run(options);
    run.trainer->run();
    ASSERT_EQ(run.recorder.steps.size(), 6U);
    for (std::size_t i = 0; i < 6; ++i) {
      const std::vector<MemberStep>& members = run.recorder.steps[i].members;
      EXPECT_GT(members[0].feature, 0.0) << i;
      EXPECT_EQ(members[1].feature > 0.0, i % 2 == 0) << i << ": the second has a batch in every other step";
    }
  }
}

TEST(UpdateWithNewBatches, WhatCannotBeIsRefused) {
  const auto refused = [](const RunOptions& options) {
    try {
      TestRun run(options);
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kUsage;
    }
    return false;
  };
  RunOptions options = dml("new-batch");
  options.batch_size = 87;
  EXPECT_FALSE(refused(options)) << "an image for the second";
  options.batch_size = 88;
  EXPECT_TRUE(refused(options)) << "a batch, and two networks";
  options.settings[0].second = "in-turn";
  EXPECT_FALSE(refused(options));
  options = dml("new-batch");
  options.settings.emplace_back("dml.attached", "true");
  EXPECT_TRUE(refused(options));
}

#if defined(COHORT_EMULATED_DEVICE)
// Nine batches of 2 for two networks: four whole steps and one in which the second has no turn.
RunOptions on_device() {
  RunOptions options = dml("new-batch");
  options.poison = true;
  options.epochs = 4;
  options.device = {DeviceKind::kCuda, 0};
  options.images = 20;
  options.batch_size = 2;
  return options;
}

class NewBatchesEmulated : public testing::Test {
 protected:
  void SetUp() override {
    if (!kHasCuda) GTEST_SKIP() << "built without the CUDA backend";
  }
  void TearDown() override { simt::set_order({}); }
};

TEST_F(NewBatchesEmulated, NeitherQueuesNorWhereTheImagesLieChangeABit) {
  std::vector<NamedBytes> expected;
  for (const simt::StreamOrder order :
       {simt::StreamOrder{simt::Order::kFifo, 0}, simt::StreamOrder{simt::Order::kReverse, 0},
        simt::StreamOrder{simt::Order::kRandom, 5}}) {
    for (const Residency residency : {Residency::kDevice, Residency::kHost}) {
      simt::set_order(order);
      RunOptions options = on_device();
      options.placement = {residency, 1};
      TestRun run(options);
      EXPECT_EQ(run.trainer->train_images().host != nullptr, residency == Residency::kHost);
      run.trainer->run();
      EXPECT_TRUE(run.cohort->replaying());
      const std::vector<NamedBytes> state = run.trainer->state();
      if (expected.empty()) expected = state;
      ASSERT_EQ(state.size(), expected.size());
      for (std::size_t i = 0; i < state.size(); ++i)
        EXPECT_TRUE(state[i].bytes == expected[i].bytes)
            << simt::to_string(order) << ": " << expected[i].name;
    }
  }
}

TEST_F(NewBatchesEmulated, LossesAreThoseOfTheCpu) {
  RunOptions options = on_device();
  options.learning_rate = 1e-3;  // roundings stay roundings
  TestRun emulated(options);
  emulated.trainer->run();
  options.device = {};
  TestRun cpu(options);
  cpu.trainer->run();
  ASSERT_EQ(emulated.recorder.steps.size(), cpu.recorder.steps.size());
  for (std::size_t i = 0; i < cpu.recorder.steps.size(); ++i) {
    for (std::size_t k = 0; k < 2; ++k) {
      const MemberStep &actual = emulated.recorder.steps[i].members[k],
                       &expected = cpu.recorder.steps[i].members[k];
      EXPECT_EQ(actual.rows, expected.rows);
      EXPECT_EQ(actual.paused, expected.paused);
      EXPECT_NEAR(actual.loss, expected.loss, 2e-3) << i << " " << k;
    }
  }
}
#endif

}  // namespace
}  // namespace cohort::distill
