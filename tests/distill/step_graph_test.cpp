// What a captured step of the main job consists of: its graph's nodes, counted on the device of this binary.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "tests/support/devices.h"
#include "tests/support/tiny_training.h"

#if defined(COHORT_EMULATED_DEVICE)
#include "tests/simt/runtime/graph_nodes.h"
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

bool holds(const std::string& name, const char* part) {
  return name.find(part) != std::string::npos;
}

bool is_filter_gradient(const std::string& name) {
  return holds(name, "(weights)") || holds(name, "conv2d_stem");
}

// Filter gradients wait for the gradient of their layer's result, and only the end of the step waits for
// them.
TEST_P(StepGraph, NothingWaitsForAFilterGradientBeforeTheOptimiser) {
  ASSERT_NE(step_.graph, nullptr);
  const std::vector<simt::GraphNode> nodes = simt::graph_nodes(static_cast<cudaGraphExec_t>(step_.graph));
  std::vector<bool> follows(nodes.size());  // a filter gradient
  std::vector<int> chain(nodes.size());     // longest way from the start, in nodes
  int filter_gradients = 0, longest = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const std::string& name = nodes[i].name;
    filter_gradients += is_filter_gradient(name) ? 1 : 0;
    for (const int before : nodes[i].dependencies) {
      const auto b = static_cast<std::size_t>(before);
      follows[i] = follows[i] || follows[b] || is_filter_gradient(nodes[b].name);
      chain[i] = std::max(chain[i], chain[b]);
    }
    longest = std::max(longest, ++chain[i]);
    const bool last = is_filter_gradient(name) || holds(name, "finite_guard") || holds(name, "sgd_cuda") ||
                      holds(name, "step_record") || name.empty();
    EXPECT_TRUE(last || !follows[i]) << name << " waits for a filter gradient";
    EXPECT_TRUE(follows[i] || !holds(name, "sgd_cuda"));
  }
  EXPECT_GE(filter_gradients, 2 * 33);
  // Of every convolution on the way: itself and two kernels of its batch norm, in either direction.
  EXPECT_LE(longest, 2 * 3 * 32 + 20);
  RecordProperty("longest_chain", longest);

  // The optimiser waits for all of them.
  std::vector<bool> needed(nodes.size());
  for (std::size_t i = nodes.size(); i-- > 0;) {
    needed[i] = needed[i] || holds(nodes[i].name, "sgd_cuda");
    if (!needed[i]) continue;
    for (const int before : nodes[i].dependencies) needed[static_cast<std::size_t>(before)] = true;
  }
  for (std::size_t i = 0; i < nodes.size(); ++i)
    EXPECT_TRUE(needed[i] || !is_filter_gradient(nodes[i].name)) << "node " << i;
}
#endif

}  // namespace
}  // namespace cohort::distill
