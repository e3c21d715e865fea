// Networks that are updated one after the other: who learns from what, and what a second pass leaves alone.
#include <gtest/gtest.h>

#include "tests/support/tiny_training.h"
#if defined(COHORT_EMULATED_DEVICE)
#include "simt/runtime/runtime.h"
#endif

namespace cohort::distill {
namespace {

using test::RunOptions;
using test::TestRun;
using Values = std::vector<double>;

RunOptions dml(const std::string& update, const std::string& weights) {
  return {.method = "dml",
          .settings = {{"dml.update", update}, {"dml.weights", weights}},
          .models = std::vector<std::string>(weights.find(';') == weights.rfind(';') ? 2 : 3, "resnet8")};
}

void first_step(TestRun& run) {
  run.recorder.stop_at = 1;
  run.trainer->run();
}

TEST(UpdateInTurn, EachLearnsFromTheNewOutputsOfThoseBeforeIt) {
  TestRun in_turn(dml("in-turn", "0,1;1,0"));
  TestRun at_once(dml("simultaneous", "0,1;1,0"));
  first_step(in_turn);
  first_step(at_once);
  EXPECT_EQ(in_turn.weights(0), at_once.weights(0)) << "nobody has moved before the first";
  EXPECT_NE(in_turn.weights(1), at_once.weights(1));

  // The second by itself: a step beside the first one's new weights.
  TestRun after(dml("simultaneous", "0,1;1,0"));
  upload_values(after.context(), after.parameters(0).values(), in_turn.weights(0));
  after.parameters(0).refresh_shadow(after.context());
  first_step(after);
  EXPECT_EQ(in_turn.weights(1), after.weights(1));
  EXPECT_EQ(in_turn.recorder.steps.at(0).members.at(0).ce, at_once.recorder.steps.at(0).members.at(0).ce)
      << "what is recorded of the first is from before its update";
  EXPECT_EQ(in_turn.recorder.steps.at(0).members.at(1).loss, after.recorder.steps.at(0).members.at(1).loss);
}

// Whoever has a turn later teaches nobody here, so the order changes nothing: second passes leave running
// statistics, momenta and counters alone, and gradients of one turn do not reach the next.
TEST(UpdateInTurn, IsASimultaneousUpdateWhereNobodyLearnsFromThoseBefore) {
  const std::string weights = "0,1,0.5;0,0,2;0,0,0";
  TestRun in_turn(dml("in-turn", weights));
  TestRun at_once(dml("simultaneous", weights));
  in_turn.trainer->run();
  at_once.trainer->run();
  const std::vector<NamedBytes> state = in_turn.trainer->state(), expected = at_once.trainer->state();
  ASSERT_EQ(state.size(), expected.size());
  for (std::size_t i = 0; i < state.size(); ++i)
    EXPECT_TRUE(state[i].bytes == expected[i].bytes) << expected[i].name;
  ASSERT_EQ(in_turn.recorder.steps.size(), at_once.recorder.steps.size());
  for (std::size_t i = 0; i < in_turn.recorder.steps.size(); ++i) {
    for (std::size_t k = 0; k < 3; ++k)
      EXPECT_EQ(in_turn.recorder.steps[i].members[k].loss, at_once.recorder.steps[i].members[k].loss) << i;
  }
}

TEST(UpdateInTurn, WithTermsOfAnAddition) {
  RunOptions options = dml("in-turn", "0,1;1,0");
  options.add = "adm";
  TestRun run(options);
  EXPECT_EQ(run.cohort->method().update_order(), UpdateOrder::kInTurn);
  run.trainer->run();
  for (const auto& step : run.recorder.steps) {
    EXPECT_GT(step.members.at(0).feature, 0.0);
    EXPECT_GT(step.members.at(1).feature, 0.0);
  }
}

TEST(UpdateInTurn, AttachedTargetsAreRefused) {
  const MethodInfo& info = find_method("dml");
  MethodOptions options(info.options);
  options.set("dml.update", "in-turn");
  options.set("dml.attached", "true");
  try {
    info.make(options);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
  }
}

#if defined(COHORT_EMULATED_DEVICE)
TEST(UpdateInTurn, NoOrderOfTheQueuesChangesABit) {
  if (!kHasCuda) GTEST_SKIP() << "built without the CUDA backend";
  RunOptions options = dml("in-turn", "0,1;1,0");
  options.poison = true;
  options.epochs = 4;
  options.device = {DeviceKind::kCuda, 0};
  options.images = 14;
  options.batch_size = 4;
  std::vector<NamedBytes> expected;
  for (const simt::StreamOrder order :
       {simt::StreamOrder{simt::Order::kFifo, 0}, simt::StreamOrder{simt::Order::kReverse, 0},
        simt::StreamOrder{simt::Order::kRandom, 5}}) {
    simt::set_order(order);
    TestRun run(options);
    run.trainer->run();
    EXPECT_TRUE(run.cohort->replaying());
    const std::vector<NamedBytes> state = run.trainer->state();
    if (expected.empty()) expected = state;
    ASSERT_EQ(state.size(), expected.size());
    for (std::size_t i = 0; i < state.size(); ++i)
      EXPECT_TRUE(state[i].bytes == expected[i].bytes) << simt::to_string(order) << ": " << expected[i].name;
  }
  simt::set_order({});
}
#endif

}  // namespace
}  // namespace cohort::distill
