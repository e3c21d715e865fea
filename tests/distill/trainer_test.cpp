// Whole training of tiny cohorts: what is promised about learning, repeatability, resuming and numbers that
// are not finite.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "distill/trainer.h"
#include "tests/support/tiny_training.h"

namespace cohort::distill {
namespace {

using test::patterns;
using test::RunOptions;
using test::TestRun;

void expect_equal_states(const Trainer& a, const Trainer& b) {
  const std::vector<NamedBytes> x = a.state(), y = b.state();
  ASSERT_EQ(x.size(), y.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(x[i].name, y[i].name);
    EXPECT_TRUE(x[i].bytes == y[i].bytes) << x[i].name;
  }
}

class EveryMethod : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Methods, EveryMethod, testing::ValuesIn(test::method_names()),
                         test::MethodAsTestName());

// Its teacher knows nothing here: what it has to say must not drown the labels.
std::vector<std::pair<std::string, std::string>> settings_to_learn(const std::string& method) {
  if (method == "dkd") return {{"dkd.warmup", "0"}, {"dkd.alpha", "0.1"}, {"dkd.beta", "0.1"}};
  if (method == "shake") return {{"shake.b", "0.02"}};
  return {};
}

TEST_P(EveryMethod, LearnsAndRepeatsForAnyNumberOfThreads) {
  RunOptions options{.method = GetParam(),
                     .settings = settings_to_learn(GetParam()),
                     .threads = 1,
                     .poison = true,
                     .epochs = 8,
                     .augment = false};
  TestRun one(options);
  const RunResult result = one.trainer->run();
  EXPECT_EQ(result.epochs, 8);
  EXPECT_LT(one.recorder.epochs.back().train_loss[1], 0.8 * one.recorder.epochs.front().train_loss[1]);
  EXPECT_GT(result.best[1].value, 0.5) << "five classes, chance is 0.2";
  for (const int threads : {2, 3}) {
    options.threads = threads;
    TestRun many(options);
    many.trainer->run();
    expect_equal_states(*one.trainer, *many.trainer);
  }
}

TEST_P(EveryMethod, TrainsInBf16) {
  TestRun run({.method = GetParam(),
               .settings = settings_to_learn(GetParam()),
               .precision = Precision::kBF16,
               .epochs = 8,
               .augment = false});
  const RunResult result = run.trainer->run();
  EXPECT_LT(run.recorder.epochs.back().train_loss[1], 0.8 * run.recorder.epochs.front().train_loss[1]);
  EXPECT_GT(result.best[1].value, 0.5);
}

TEST_P(EveryMethod, ResumesBitwiseAtEveryStep) {
  const RunOptions options{.method = GetParam(), .models = test::two_models(GetParam())};
  TestRun whole(options);
  whole.trainer->run();
  const auto steps = static_cast<std::int64_t>(whole.recorder.steps.size());
  ASSERT_EQ(steps, 6);
  for (std::int64_t stop = 1; stop < steps; ++stop) {
    TestRun first(options);
    first.recorder.stop_at = stop;
    EXPECT_EQ(first.trainer->run().stopped, StopRequest::kTerminate);
    TestRun second(options);
    second.trainer->restore(first.trainer->state());
    second.trainer->run();
    expect_equal_states(*whole.trainer, *second.trainer);
    ASSERT_EQ(second.recorder.steps.size(), static_cast<std::size_t>(steps - stop));
    for (std::size_t i = 0; i < second.recorder.steps.size(); ++i) {
      const StepRecord& expected = whole.recorder.steps[i + static_cast<std::size_t>(stop)];
      for (std::size_t k = 0; k < 2; ++k)
        EXPECT_EQ(second.recorder.steps[i].members[k].loss, expected.members[k].loss);
    }
  }
}

TEST(Trainer, WeightZeroTrainsBitwiseAsIndependent) {
  TestRun alone({.method = "independent"});
  alone.trainer->run();
  const std::vector<std::pair<std::string, std::vector<std::pair<std::string, std::string>>>> zero = {
      {"dml", {{"dml.lambda", "0"}}},
      {"kdcl-naive", {{"kdcl.lambda", "0"}}},
      {"kdcl-minlogit", {{"kdcl.lambda", "0"}}},
      {"kdcl-mean", {{"kdcl.lambda", "0"}}},
      {"kdcl-linear", {{"kdcl.lambda", "0"}}},
      {"kdcl-general", {{"kdcl.lambda", "0"}}},
      {"competitive", {{"cd.a", "0"}, {"cd.b", "0"}, {"cd.perturb", "false"}}}};
  for (const auto& [method, settings] : zero) {
    TestRun run({.method = method, .settings = settings});
    run.trainer->run();
    for (std::size_t k = 0; k < 2; ++k) EXPECT_EQ(run.weights(k), alone.weights(k)) << method;
  }
}

TEST(Trainer, ACohortOfOneIsTheSameNetworkAsInACohortOfTwo) {
  TestRun two({.method = "independent"});
  two.trainer->run();
  TestRun one({.method = "independent", .models = {"resnet8"}});
  one.trainer->run();
  EXPECT_EQ(one.weights(0), two.weights(0));
}

TEST(Trainer, PermutingMembersPermutesResults) {
  for (const char* method : {"dml", "kdcl-naive", "kdcl-minlogit", "competitive"}) {
    RunOptions options{.method = method, .models = {"resnet8", "wrn_16_2"}};
    if (std::string(method) == "competitive") options.settings = {{"cd.perturb", "false"}, {"cd.b", "0"}};
    TestRun forward(options);
    std::swap(options.models[0], options.models[1]);
    TestRun backward(options);
    for (std::size_t k = 0; k < 2; ++k) {
      const auto bytes = serialize_weights(forward.context(), *forward.cohort->members()[k].network, 0, {});
      load_weights(backward.context(), *backward.cohort->members()[1 - k].network, bytes, "swap");
    }
    forward.trainer->run();
    backward.trainer->run();
    for (std::size_t k = 0; k < 2; ++k) EXPECT_EQ(forward.weights(k), backward.weights(1 - k)) << method;
  }
}

TEST(Trainer, ASickMemberIsNamedAndNotUpdated) {
  TestRun run({.method = "dml"});
  std::vector<double> poisoned = run.weights(1);
  poisoned[0] = std::numeric_limits<double>::quiet_NaN();
  upload_values(run.context(), run.parameters(1).values(), poisoned);
  const std::vector<double> before = run.weights(0);
  try {
    run.trainer->run();
    FAIL() << "a NaN went unnoticed";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kNotFinite);
    EXPECT_NE(std::string(e.what()).find("at step 1"), std::string::npos) << e.what();
  }
  EXPECT_EQ(run.weights(0), before)
      << "its teacher was sick: the healthy member must not take the step either";
}

TEST(Trainer, ASickMemberDoesNotTouchItsPeersWhereItTeachesNobody) {
  for (const char* method : {"independent", "competitive"}) {
    TestRun run({.method = method, .nan = NanPolicy::kIgnore});
    std::vector<double> poisoned = run.weights(1);
    poisoned[0] = std::numeric_limits<double>::quiet_NaN();
    upload_values(run.context(), run.parameters(1).values(), poisoned);
    run.trainer->run();
    for (const double w : run.weights(0)) ASSERT_TRUE(std::isfinite(w)) << method;
    for (const StepRecord& step : run.recorder.steps) {
      EXPECT_TRUE(step.members[0].stepped) << method;
      EXPECT_FALSE(step.members[1].stepped) << method;
    }
  }
}

TEST(Trainer, OneRandomMemberIsPerturbedAndItsMapsAreLeftOut) {
  TestRun run({.method = "competitive", .epochs = 16});
  run.trainer->run();
  std::map<int, int> members, operations;
  for (const StepRecord& step : run.recorder.steps) {
    ++members[step.perturbed];
    ++operations[step.operation];
    ASSERT_TRUE(step.perturbed == 0 || step.perturbed == 1);
    ASSERT_GE(step.operation, 1);
    ASSERT_LE(step.operation, 7) << "the paper's pool";
    const int student = 1 - step.teacher;
    const auto& m = step.members[static_cast<std::size_t>(student)];
    if (kernels::is_geometric(static_cast<kernels::PerturbOp>(step.operation))) {
      EXPECT_EQ(m.feature, 0.0);
    } else {
      EXPECT_GT(m.feature, 0.0);
    }
    EXPECT_NEAR(m.loss, m.ce + m.kl + m.feature, 1e-5 * m.loss);
    const auto& teacher = step.members[static_cast<std::size_t>(step.teacher)];
    EXPECT_EQ(teacher.loss, teacher.ce) << "the teacher learns from the labels alone";
    EXPECT_LE(teacher.ce, m.ce);
  }
  EXPECT_EQ(members.size(), 2U);
  EXPECT_EQ(operations.size(), 7U) << "48 steps draw every operation of the pool";
}

TEST(Trainer, OfficialPoolPerturbsEveryTenthStep) {
  TestRun run({.method = "competitive", .settings = {{"cd.pool", "official"}}, .epochs = 7});
  run.trainer->run();
  for (const StepRecord& step : run.recorder.steps)
    EXPECT_EQ(step.perturbed >= 0, (step.step - 1) % 10 == 0) << step.step;
}

// A paused teacher: what it has learnt stays, its batch norm statistics move on. Sharpened, the predictions
// of two new networks are far apart, which is what pauses it.
TEST(Trainer, APausedTeacherKeepsItsParametersAndMomenta) {
  TestRun run({.method = "switokd", .settings = {{"swit.guard", "false"}, {"swit.tau", "0.01"}}});
  const std::vector<double> before = run.weights(0);
  const auto file = [&] {
    return serialize_weights(run.context(), *run.cohort->members()[0].network, 0, {});
  };
  const auto file_before = file();
  run.recorder.stop_at = 1;
  run.trainer->run();
  const MemberStep& teacher = run.recorder.steps.at(0).members[0];
  ASSERT_TRUE(teacher.paused);
  EXPECT_EQ(teacher.mode, 1);
  EXPECT_TRUE(teacher.stepped) << "pausing is no failure";
  EXPECT_EQ(teacher.loss, 0.0);
  EXPECT_GT(teacher.ce, 0.0);
  EXPECT_EQ(run.weights(0), before);
  for (const double v : download_values(run.context(), run.parameters(0).momenta())) ASSERT_EQ(v, 0.0);
  EXPECT_FALSE(file() == file_before) << "running statistics go on";
  const MemberStep& student = run.recorder.steps.at(0).members[1];
  EXPECT_FALSE(student.paused);
  EXPECT_EQ(student.mode, -1);
  EXPECT_EQ(run.cohort->members()[0].batches_tracked, 1);
}

TEST(Trainer, KdclGeneralRenewsItsWeightsAfterEveryEpoch) {
  const RunOptions options{.method = "kdcl-general", .models = {"resnet8", "wrn_16_2"}, .epochs = 3};
  TestRun run(options);
  const auto weights = [&] { return run.cohort->method().state(); };
  EXPECT_EQ(weights(), (std::vector<double>{0.5, 0.5}));
  run.recorder.stop_at = 2;  // of three steps
  run.trainer->run();
  EXPECT_EQ(weights(), (std::vector<double>{0.5, 0.5})) << "not within an epoch";
  run.recorder.stop_at = -1;
  run.trainer->run();
  const std::vector<double> w = weights();
  EXPECT_NE(w[0], 0.5);
  EXPECT_NEAR(w[0] + w[1], 1, 1e-12);
  for (const double v : w) EXPECT_GE(v, 0);
  TestRun resumed(options);
  resumed.trainer->restore(run.trainer->state());
  EXPECT_EQ(resumed.cohort->method().state(), w);
  TestRun other({.method = "dml", .models = {"resnet8", "wrn_16_2"}});
  EXPECT_THROW(other.trainer->restore(run.trainer->state()), Error);
}

TEST(Trainer, KdclGeneralNeedsHeldOutImages) {
  TestRun run({.method = "kdcl-general"});
  const ImageSet set = patterns(20, 5, 3, 0);
  test::Recorder recorder;
  try {
    Trainer(run.context(), *run.cohort, {&set, {0, 1, 2}, {}, nullptr}, {.schedule = {}}, recorder);
    FAIL() << "it trained without";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
  }
}

// min(epoch / 20, 1), from device memory: the distillation part of two epochs of one batch, with nothing
// learnt between them.
TEST(Trainer, DkdWarmsUpByTheEpoch) {
  TestRun run({.method = "dkd", .learning_rate = 0, .augment = false, .batch_size = 128});
  run.trainer->run();
  double kl[2] = {0, 0};
  for (const StepRecord& step : run.recorder.steps) kl[step.epoch] += step.members[1].kl * step.rows;
  EXPECT_GT(kl[0], 0);
  EXPECT_NEAR(kl[1] / kl[0], 2, 1e-4);
}

TEST(Trainer, EvaluationChangesNothing) {
  TestRun run({});
  const std::vector<NamedBytes> before = run.trainer->state();
  const ImageSet set = patterns(40, 5, 3, 1);
  run.cohort->predict(to_device(run.context(), set), {0, 3, 5, 7});
  const std::vector<NamedBytes> after = run.trainer->state();
  for (std::size_t i = 0; i < before.size(); ++i)
    EXPECT_TRUE(before[i].bytes == after[i].bytes) << before[i].name;
}

// A set's memory may be another set's later: what an evaluation kept for the first must not serve the second.
TEST(Trainer, ASetInTheMemoryOfAnotherIsAnother) {
  const std::vector<std::int32_t> indices = {0, 1, 2};
  ImageSet small = patterns(16, 5, 3, 0);
  ImageSet large = small;
  large.height = large.width = 16;
  large.labels.resize(4);
  TestRun fresh({});
  const auto expected = fresh.cohort->predict(to_device(fresh.context(), large), indices);

  TestRun run({});
  run.cohort->predict(to_device(run.context(), small), indices);
  std::fill(small.labels.begin(), small.labels.end(), 77);
  ImageSet again = large;
  again.images = std::move(small.images);
  EXPECT_EQ(run.cohort->predict(to_device(run.context(), again), indices), expected);
}

TEST(Trainer, MemoryStopsGrowingAfterTwoStepsOfEveryShape) {
  TestRun run({.epochs = 4});
  run.recorder.stop_at = 6;  // two epochs: two short batches, two evaluations
  run.trainer->run();
  const std::size_t warm = run.context().arena_bytes();
  run.recorder.stop_at = -1;
  run.trainer->run();
  EXPECT_EQ(run.context().arena_bytes(), warm);
  EXPECT_TRUE(run.cohort->replaying());
}

TEST(Trainer, RefusesTheStateOfAnotherCohort) {
  TestRun a({});
  TestRun b({.models = {"resnet8", "wrn_16_2"}});
  EXPECT_THROW(b.trainer->restore(a.trainer->state()), Error);
  std::vector<NamedBytes> cut = a.trainer->state();
  cut.pop_back();
  EXPECT_THROW(a.trainer->restore(cut), Error);
}

}  // namespace
}  // namespace cohort::distill
