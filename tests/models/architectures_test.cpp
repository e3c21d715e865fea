// Every architecture of the registry, one representative of each: it computes on the device of this binary
// (the emulated one, or a GPU) what it computes on the CPU, and gives its maps before and after activation.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "models/registry.h"
#include "tests/support/devices.h"
#include "tests/support/random.h"
#include "tests/support/tensors.h"

namespace cohort::models {
namespace {

using Floats = std::vector<float>;

class EveryArchitecture : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, EveryArchitecture,
                         testing::Values("resnet8", "resnet20_a", "wrn_16_2", "vgg8", "mobilenet_v1",
                                         "mobilenet_v2_half", "shufflenet_v1", "shufflenet_v2"),
                         [](const auto& p) { return std::string(p.param); });

// A network on images of its own, stepped by hand.
struct Probe {
  static constexpr int kClasses = 5;

  // Convolutions keep the size of what passes: with the networks' own values all would fade but the bias of
  // the logits, since nothing is normalised here.
  Probe(const char* model, Device device, int side)
      : ctx({.device = device, .num_threads = 2, .poison = true}),
        network(make_network(model, kClasses, {.channels = 3, .height = side, .width = side})) {
    network->materialize(ctx, 3, 0);
    test::Random random(5);
    for (const Parameter& p : network->parameters().parameters()) {
      if (p.kind != ParameterKind::kConv) continue;
      Floats weights = random.normals<float>(static_cast<std::size_t>(p.shape.count()));
      const auto fan_in = static_cast<float>(p.shape.count() / p.shape[0]);
      for (float& w : weights) w *= std::sqrt(2 / fan_in);
      ctx.upload(p.value, weights.data());
    }
    x = ctx.persistent_tensor({2, side, side, 3}, DType::f32);
    ctx.upload(x, random.normals<float>(static_cast<std::size_t>(x.count())).data());
  }

  Outputs forward(bool preactivation) {
    ctx.begin_step();
    return network->forward(ctx, x, {.training = false, .preactivation = preactivation});
  }
  Floats values(const Tensor& t) { return test::download<float>(ctx, t); }

  // The logits, then the gradient of every parameter for a random direction.
  std::vector<Floats> step() {
    network->parameters().reset_grads();
    const Outputs out = forward(false);
    test::Random random(9);
    test::seed_gradient(ctx, out.logits, random.normals<float>(static_cast<std::size_t>(out.logits.count())));
    ctx.backward();
    std::vector<Floats> results = {values(out.logits)};
    for (const Parameter& p : network->parameters().parameters()) results.push_back(values(p.grad));
    return results;
  }

  Context ctx;
  std::unique_ptr<Network> network;
  Tensor x;
};

// In evaluation mode: what training does to statistics of a handful of values would hide every error. A ReLU
// whose input is next to 0 may take the other side, hence 1e-3 of the largest entry.
TEST_P(EveryArchitecture, ComputesOnTheDeviceWhatTheCpuComputes) {
  if (!test::kHasDevice) GTEST_SKIP() << "this build has no CUDA backend, emulated or real";
  COHORT_SKIP_WITHOUT(test::Device::kCuda);
  Probe cpu(GetParam(), {}, 8), device(GetParam(), {DeviceKind::kCuda, 0}, 8);
  const std::vector<Floats> expected = cpu.step(), results = device.step();
  ASSERT_EQ(results.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    float largest = 0, difference = 0;
    for (std::size_t j = 0; j < expected[i].size(); ++j) {
      largest = std::max(largest, std::abs(expected[i][j]));
      difference = std::max(difference, std::abs(results[i][j] - expected[i][j]));
      ASSERT_TRUE(std::isfinite(results[i][j]));
    }
    EXPECT_GT(largest, 0);
    EXPECT_LE(difference, (i == 0 ? 1e-5F : 1e-3F) * largest)
        << (i == 0 ? "logits" : cpu.network->parameters().parameters()[i - 1].name);
  }
}

// What methods on feature maps rely on.
TEST_P(EveryArchitecture, StagesAreTheirPreactivationsActivated) {
  Probe probe(GetParam(), {}, 16);
  const Outputs fused = probe.forward(false);
  EXPECT_TRUE(fused.stages_pre.empty());
  std::vector<Floats> expected;
  for (const Tensor& stage : fused.stages) expected.push_back(probe.values(stage));
  const Outputs out = probe.forward(true);
  ASSERT_EQ(out.stages.size(), expected.size());
  ASSERT_EQ(out.stages_pre.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "stage " << i);
    EXPECT_EQ(probe.values(out.stages[i]), expected[i]);
    if (out.stages_pre[i].data == out.stages[i].data) continue;  // a linear stage
    Floats pre = probe.values(out.stages_pre[i]);
    EXPECT_LT(*std::min_element(pre.begin(), pre.end()), 0);
    for (float& v : pre) v = std::max(v, 0.0F);
    EXPECT_EQ(pre, expected[i]);
  }
  EXPECT_EQ(out.stages.back().shape[3], out.pooled.shape[1]);
  EXPECT_EQ(out.classifier.weight.shape, (Shape{Probe::kClasses, out.pooled.shape[1]}));
}

}  // namespace
}  // namespace cohort::models
