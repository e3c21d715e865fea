// Every architecture of the registry trained, one representative of each: it learns, repeats to the bit for
// any number of threads, and steps on the device of this binary (the emulated one, or a GPU) as on the CPU.
#include <gtest/gtest.h>

#include <cmath>

#include "models/registry.h"
#include "tests/support/devices.h"
#include "tests/support/tiny_training.h"

namespace cohort::distill {
namespace {

using test::RunOptions;
using test::TestRun;

class EveryArchitecture : public testing::TestWithParam<const char*> {
 protected:
  RunOptions options() const {
    return {.method = "independent",
            .models = {GetParam()},
            .poison = true,
            .epochs = 4,
            .augment = false,
            .images = 60,
            .batch_size = 16};
  }
};
INSTANTIATE_TEST_SUITE_P(Models, EveryArchitecture, testing::Values("vgg8"),
                         [](const auto& p) { return std::string(p.param); });

std::vector<StepRecord> train(const RunOptions& options) {
  TestRun run(options);
  run.trainer->run();
  return run.recorder.steps;
}

TEST_P(EveryArchitecture, LearnsAndRepeatsForAnyNumberOfThreads) {
  RunOptions o = options();
  TestRun two(o);
  two.trainer->run();
  EXPECT_LT(two.recorder.epochs.back().train_loss[0], 0.8 * two.recorder.epochs.front().train_loss[0]);
  o.threads = 3;
  TestRun three(o);
  three.trainer->run();
  EXPECT_EQ(three.weights(0), two.weights(0));
}

TEST_P(EveryArchitecture, LearnsInBf16) {
  RunOptions o = options();
  o.precision = Precision::kBF16;
  TestRun run(o);
  run.trainer->run();
  EXPECT_LT(run.recorder.epochs.back().train_loss[0], 0.8 * run.recorder.epochs.front().train_loss[0]);
}

// The loss of the second step sees every gradient of the first.
TEST_P(EveryArchitecture, StepsOnTheDeviceAsOnTheCpu) {
  if (!test::kHasDevice) GTEST_SKIP() << "this build has no CUDA backend, emulated or real";
  COHORT_SKIP_WITHOUT(test::Device::kCuda);
  RunOptions o = options();
  o.epochs = 1;
  o.images = 9;  // one of which is held out
  o.batch_size = 4;
  const std::vector<StepRecord> cpu = train(o);
  o.device = {DeviceKind::kCuda, 0};
  const std::vector<StepRecord> device = train(o);
  ASSERT_EQ(cpu.size(), 2U);
  ASSERT_EQ(device.size(), cpu.size());
  for (std::size_t i = 0; i < cpu.size(); ++i) {
    const double expected = cpu[i].members[0].loss;
    EXPECT_NEAR(device[i].members[0].loss, expected, (i == 0 ? 1e-5 : 1e-3) * std::abs(expected));
  }
}

// What methods on feature maps rely on.
TEST_P(EveryArchitecture, StagesAreTheirPreactivationsActivated) {
  Context ctx({.num_threads = 1, .poison = true});
  const auto network = models::make_network(GetParam(), 5, {.channels = 3, .height = 16, .width = 16});
  network->materialize(ctx, 3, 0);
  const Tensor x = ctx.persistent_tensor({2, 16, 16, 3}, DType::f32);
  std::vector<float> pixels(static_cast<std::size_t>(x.count()));
  Rng rng({.seed = 5});
  for (float& v : pixels) v = static_cast<float>(rng.normal());
  ctx.upload(x, pixels.data());
  const auto forward = [&](bool preactivation) {
    ctx.begin_step();
    return network->forward(ctx, x, {.training = false, .preactivation = preactivation});
  };
  const auto values = [&](const Tensor& t) {
    std::vector<float> v(static_cast<std::size_t>(t.count()));
    ctx.download(v.data(), t);
    return v;
  };
  const models::Outputs fused = forward(false);
  EXPECT_TRUE(fused.stages_pre.empty());
  std::vector<std::vector<float>> expected;
  for (const Tensor& stage : fused.stages) expected.push_back(values(stage));
  const models::Outputs out = forward(true);
  ASSERT_EQ(out.stages.size(), expected.size());
  ASSERT_EQ(out.stages_pre.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "stage " << i);
    EXPECT_EQ(values(out.stages[i]), expected[i]);
    std::vector<float> pre = values(out.stages_pre[i]);
    if (out.stages_pre[i].data == out.stages[i].data) continue;  // a linear stage
    float lowest = 0;
    for (float& v : pre) {
      lowest = std::min(lowest, v);
      v = std::max(v, 0.0F);
    }
    EXPECT_LT(lowest, 0);
    EXPECT_EQ(pre, expected[i]);
  }
  EXPECT_EQ(out.stages.back().shape[3], out.pooled.shape[1]);
  EXPECT_EQ(out.classifier.weight.shape, (Shape{5, out.pooled.shape[1]}));
}

}  // namespace
}  // namespace cohort::distill
