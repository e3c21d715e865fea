// Every method trained on the device of this binary (the emulated one, or a GPU) as on the CPU: same losses,
// replay equal to eager, the same bits every time, resume included.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/devices.h"
#include "tests/support/tiny_training.h"

namespace cohort::distill {
namespace {

using test::RunOptions;
using test::TestRun;

// Few enough images for the emulator; the last batch is short, so both plans of a step are captured and
// replayed.
RunOptions tiny(const std::string& method) {
  RunOptions options{.method = method, .epochs = 4, .images = 14, .batch_size = 4};
  if (method == "competitive") options.settings = {{"cd.perturb", "true"}};
  return options;
}

RunOptions on_cuda(RunOptions options) {
  options.device = {DeviceKind::kCuda, 0};
  return options;
}

std::vector<StepRecord> train(const RunOptions& options) {
  TestRun run(options);
  run.trainer->run();
  return run.recorder.steps;
}

void expect_same_bits(const std::vector<StepRecord>& a, const std::vector<StepRecord>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].teacher, b[i].teacher);
    for (std::size_t k = 0; k < a[i].members.size(); ++k) {
      EXPECT_EQ(a[i].members[k].loss, b[i].members[k].loss) << "step " << i << " member " << k;
      EXPECT_EQ(a[i].members[k].correct_top1, b[i].members[k].correct_top1);
    }
  }
}

class DeviceTraining : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!test::kHasDevice) GTEST_SKIP() << "this build has no CUDA backend, emulated or real";
    COHORT_SKIP_WITHOUT(test::Device::kCuda);
  }
};

INSTANTIATE_TEST_SUITE_P(Methods, DeviceTraining, testing::ValuesIn(test::method_names()),
                         test::MethodAsTestName());

void expect_close(const std::vector<StepRecord>& cpu, const std::vector<StepRecord>& device,
                  std::size_t steps, double tolerance) {
  ASSERT_EQ(cpu.size(), device.size());
  for (std::size_t i = 0; i < steps; ++i) {
    EXPECT_EQ(cpu[i].teacher, device[i].teacher);
    EXPECT_EQ(cpu[i].perturbed, device[i].perturbed);
    EXPECT_EQ(cpu[i].operation, device[i].operation);
    for (std::size_t k = 0; k < cpu[i].members.size(); ++k) {
      const MemberStep &a = cpu[i].members[k], &b = device[i].members[k];
      EXPECT_NEAR(b.loss, a.loss, tolerance * std::abs(a.loss)) << "step " << i << " member " << k;
      EXPECT_NEAR(b.feature, a.feature, tolerance * (1 + std::abs(a.feature)));
      EXPECT_EQ(b.stepped, a.stepped);
      EXPECT_EQ(b.paused, a.paused);
      EXPECT_EQ(b.mode, a.mode);
    }
  }
}

// Training amplifies every rounding, more where a ReLU's input is next to 0: double leaves room for it. The
// emulator runs convolutions of doubles thread by thread, so there are two steps, a full and a short one.
TEST_P(DeviceTraining, AgreesWithTheCpuInDouble) {
  RunOptions options = tiny(GetParam());
  options.precision = Precision::kF64;
  options.epochs = 1;
  options.images = 6;
  options.batch_size = 3;
  const std::vector<StepRecord> cpu = train(options), device = train(on_cuda(options));
  ASSERT_EQ(cpu.size(), 2U);
  expect_close(cpu, device, cpu.size(), 1e-9);
}

TEST_P(DeviceTraining, AgreesWithTheCpuInF32) {
  const RunOptions options = tiny(GetParam());
  expect_close(train(options), train(on_cuda(options)), 3, 1e-5);
}

TEST_P(DeviceTraining, ReplayEqualsEager) {
  RunOptions options = on_cuda(tiny(GetParam()));
  const std::vector<StepRecord> replayed = train(options);
  options.graph = false;
  expect_same_bits(replayed, train(options));
}

TEST_P(DeviceTraining, ResumesBitwise) {
  const RunOptions options = on_cuda(tiny(GetParam()));
  const std::vector<StepRecord> whole = train(options);
  for (const std::int64_t stop : {3, 8}) {
    TestRun first(options);
    first.recorder.stop_at = stop;
    EXPECT_EQ(first.trainer->run().stopped, StopRequest::kTerminate);
    TestRun second(options);
    second.trainer->restore(first.trainer->state());
    second.trainer->run();
    std::vector<StepRecord> joined = first.recorder.steps;  // the device may have been ahead of the stop
    joined.insert(joined.end(), second.recorder.steps.begin(), second.recorder.steps.end());
    expect_same_bits(whole, joined);
  }
}

TEST_P(DeviceTraining, TrainsInBf16) {
  RunOptions options = on_cuda(tiny(GetParam()));
  options.precision = Precision::kBF16;
  const std::vector<StepRecord> steps = train(options);
  expect_same_bits(steps, train(options));
  for (const StepRecord& step : steps) {
    for (const MemberStep& member : step.members) EXPECT_TRUE(std::isfinite(member.loss));
  }
}

}  // namespace
}  // namespace cohort::distill
