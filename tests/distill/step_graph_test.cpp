// What a captured step of the main job consists of: its graph's nodes, counted on the device of this binary.
#include <gtest/gtest.h>

#include <map>

#include "tests/support/devices.h"
#include "tests/support/tiny_training.h"

#if defined(COHORT_EMULATED_DEVICE)
#include "tests/simt/runtime/runtime.h"
#endif

namespace cohort::distill {
namespace {

// Two ResNet-32 that teach each other. How many nodes a step has depends on the networks and the method only,
// not on the images: these are as small as the networks allow.
class StepGraph : public testing::TestWithParam<Precision> {
 protected:
  void SetUp() override {
    if (!test::kHasDevice) GTEST_SKIP() << "this build has no CUDA backend, emulated or real";
    COHORT_SKIP_WITHOUT(test::Device::kCuda);
    run_ = std::make_unique<test::TestRun>(test::RunOptions{.method = "dml",
                                                            .models = {"resnet32", "resnet32"},
                                                            .precision = GetParam(),
                                                            .epochs = 1,
                                                            .device = {DeviceKind::kCuda, 0},
                                                            .images = 7,
                                                            .batch_size = 2});
    run_->trainer->run();  // two steps eagerly, the third is captured
    step_ = run_->cohort->captured_step();
  }

  std::unique_ptr<test::TestRun> run_;
  kernels::CapturedStep step_;
};
INSTANTIATE_TEST_SUITE_P(Precisions, StepGraph, testing::Values(Precision::kF32, Precision::kBF16),
                         [](const auto& p) { return p.param == Precision::kF32 ? "f32" : "bf16"; });

// An eager framework starts about 980 kernels for this step.
TEST_P(StepGraph, HasAtMostFiveHundredNodes) {
  ASSERT_NE(step_.graph, nullptr);
  RecordProperty("nodes", step_.num_nodes());
  EXPECT_LE(step_.num_nodes(), 500);
  EXPECT_GT(step_.kernels,
            2 * 32 * (3 + 4));  // convolutions and batch norms of two networks, none optimised away
  EXPECT_EQ(step_.memsets, 0);
}

#if defined(COHORT_EMULATED_DEVICE)
TEST_P(StepGraph, LossAndOptimiserAreOneNode) {
  ASSERT_NE(step_.graph, nullptr);
  std::map<std::string, int> nodes;  // by source file
  for (const std::string& name : simt::kernel_names(static_cast<cudaGraphExec_t>(step_.graph))) {
    const std::size_t begin = name.rfind('/') == std::string::npos ? 0 : name.rfind('/') + 1;
    ++nodes[name.substr(begin, name.find(':') - begin)];
  }
  std::string all;
  for (const auto& [file, count] : nodes) all += file + " " + std::to_string(count) + "\n";
  SCOPED_TRACE(all);
  EXPECT_EQ(nodes["cohort_loss_cuda.cu"], 1);
  EXPECT_EQ(nodes["sgd_cuda.cu"], 1);
  EXPECT_EQ(nodes["channel_sums.cuh"], 2 * 33 * 4);  // sums and apply, forward and backward
  EXPECT_EQ(nodes["pointwise_cuda.cu"], 0);          // no copy and no sum of gradients
  EXPECT_EQ(nodes["epilogue.cu"], 0);                // no cast
  EXPECT_EQ(nodes["memory_cuda.cpp"], 0);
}
#endif

}  // namespace
}  // namespace cohort::distill
