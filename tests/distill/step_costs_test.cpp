// What a step costs on a GPU, counted without one, against the step that the emulated device captures.
#include "distill/step_costs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/devices.h"

#if defined(COHORT_EMULATED_DEVICE)
#include "tests/simt/runtime/runtime.h"
#endif

namespace cohort::distill {
namespace {

constexpr cohort::Device kGpu{DeviceKind::kCuda, 0};

struct Job {
  std::string method = "dml";
  std::vector<std::string> models = {"resnet32", "resnet32"};
  Precision precision = Precision::kF32;
  int side = 32;
  std::int64_t batch = 128;
  std::vector<std::pair<std::string, std::string>> settings = {};
};

ImageSet images_of(const Job& job) {
  ImageSet set;
  set.name = "blank";
  set.height = set.width = job.side;
  set.channels = 3;
  set.num_classes = 100;
  set.labels.resize(static_cast<std::size_t>(job.batch));
  set.images.resize(static_cast<std::size_t>(job.batch * job.side * job.side * 3));
  for (double& std : set.normalisation.std) std = 1;
  return set;
}

// A cohort on a context that rehearses, or on the device.
struct Trial {
  Trial(const Job& job, bool rehearse)
      : batch(job.batch),
        set(images_of(job)),
        ctx({.device = kGpu,
             .precision = job.precision,
             .num_threads = 1,
             .num_branches = static_cast<int>(job.models.size()),
             .rehearse = rehearse}) {
    std::vector<MemberSpec> specs;
    for (const std::string& model : job.models) specs.push_back({std::to_string(specs.size()), model, 0.1});
    const MethodInfo& info = find_method(job.method);
    MethodOptions options(info.options);
    for (const auto& [key, value] : job.settings) options.set(key, value);
    cohort = std::make_unique<Cohort>(ctx, specs, info.make(options), set, CohortOptions{});
    images = to_device(ctx, set);
  }

  StepCosts costs() { return step_costs(*cohort, images, batch); }

  // Two steps before the capture, and the captured one.
  void train() {
    const std::vector<std::int32_t> indices(static_cast<std::size_t>(3 * batch * cohort->batches_per_step()),
                                            0);
    const std::vector<double> rates(cohort->members().size(), 0.0);
    Feed feed = cohort->make_feed(images, indices, batch, /*shuffle=*/false);
    feed.start(0, 0, cohort->rate_table({rates, rates, rates}));
    for (int step = 0; step < 3; ++step) cohort->train(feed);
    ctx.synchronize();
  }

  std::int64_t batch;
  ImageSet set;
  Context ctx;
  std::unique_ptr<Cohort> cohort;
  DeviceImages images;
};

Rehearsal::Operation operation(const StepCosts& costs, const std::string& name) {
  for (const Rehearsal::Operation& operation : costs.operations) {
    if (operation.name == name) return operation;
  }
  return {.name = name, .traffic = {}};
}

std::string text_of(const StepCosts& costs) {
  std::string text;
  for (const Rehearsal::Operation& o : costs.operations) {
    text += o.name + ": " + std::to_string(o.calls) + " calls, " + std::to_string(o.num_nodes()) +
            " nodes, " + std::to_string(o.traffic.bytes) + " bytes\n";
  }
  return text;
}

// No GPU is needed, only the backend's host code.
class StepCostsOf : public testing::TestWithParam<Precision> {
 protected:
  void SetUp() override {
    if (!test::kHasDevice) GTEST_SKIP() << "this build has no CUDA backend, emulated or real";
  }
};
INSTANTIATE_TEST_SUITE_P(Precisions, StepCostsOf, testing::Values(Precision::kF32, Precision::kBF16),
                         [](const auto& p) { return p.param == Precision::kF32 ? "f32" : "bf16"; });

// The main job. Plain PyTorch starts about 980 kernels for it and moves about 22 S.
TEST_P(StepCostsOf, TwoResnet32StayBelow500NodesAnd13S) {
  Trial run({.precision = GetParam()}, /*rehearse=*/true);
  const StepCosts costs = run.costs();
  SCOPED_TRACE(text_of(costs));
  EXPECT_LE(costs.graph.num_nodes(), 500);
  EXPECT_EQ(costs.graph.memsets, 0);
  EXPECT_EQ(costs.graph.copies, 0);
  EXPECT_EQ(costs.casts(), 0);
  EXPECT_EQ(operation(costs, "cohort_loss").num_nodes(), 1);
  EXPECT_EQ(operation(costs, "sgd").num_nodes(), 1);
  EXPECT_EQ(operation(costs, "conv2d_forward").vendor, 2 * 33);
  EXPECT_EQ(operation(costs, "conv2d_backward_data").vendor, 2 * 32) << "none for the images";
  EXPECT_EQ(operation(costs, "batch_norm_forward").kernels, 2 * 33 * 2);
  EXPECT_EQ(operation(costs, "batch_norm_backward").kernels, 2 * 33 * 2);
  // The published counts (53.0 GFLOP a step and network) go with 80.7 MB of 16-bit outputs.
  const std::int64_t width = GetParam() == Precision::kF32 ? 4 : 2;
  EXPECT_EQ(costs.convolution_outputs, 2 * 40'370'176 * width);
  EXPECT_LE(costs.traffic.bytes, 13 * costs.convolution_outputs)
      << static_cast<double>(costs.traffic.bytes) / static_cast<double>(costs.convolution_outputs);
  EXPECT_GT(costs.traffic.bytes, 12 * costs.convolution_outputs) << "nothing has been forgotten";
}

TEST_P(StepCostsOf, MemoryIsAllNamedAndReserved) {
  Trial run({.precision = GetParam()}, /*rehearse=*/true);
  const StepCosts::Memory memory = run.costs().memory;
  const auto width = static_cast<std::size_t>(GetParam() == Precision::kF32 ? 4 : 2);
  RecordProperty("peak_mib", static_cast<int>(memory.reserved >> 20));
  EXPECT_EQ(memory.images, 128U * 32 * 32 * 3);
  EXPECT_GT(memory.weights, 2U * 472'000 * (GetParam() == Precision::kF32 ? 4 : 6));
  EXPECT_EQ(memory.gradients, memory.momenta);
  EXPECT_GT(memory.step, 4U * 40'370'176 * width)
      << "every convolution's and every batch norm's output is kept";
  EXPECT_GE(memory.reserved, memory.weights + memory.gradients + memory.momenta + memory.images +
                                 memory.other + memory.step + memory.workspace);
}

// A former teacher is its weights alone: nobody trains it.
TEST_P(StepCostsOf, AFormerNetworkHasNeitherGradientsNorMomenta) {
  const auto memory = [&](const char* q) {
    Trial run({.method = "adm",
               .models = {"resnet8", "resnet8"},
               .precision = GetParam(),
               .batch = 4,
               .settings = {{"adm.di_form", "kd"}, {"adm.q", q}}},
              /*rehearse=*/true);
    return run.costs().memory;
  };
  const StepCosts::Memory table = memory("table"), frozen = memory("frozen");
  EXPECT_EQ(frozen.weights, table.weights / 2 * 3);
  EXPECT_EQ(frozen.gradients, table.gradients);
  EXPECT_EQ(frozen.momenta, table.momenta);
}

// Everything that any method does has a name and a formula.
TEST_P(StepCostsOf, EveryMethodsOperationsHaveNamesAndFormulas) {
  for (const MethodInfo& info : registry()) {
    SCOPED_TRACE(info.name);
    Trial run({.method = info.name, .models = {"resnet8", "resnet8"}, .precision = GetParam(), .batch = 4},
              /*rehearse=*/true);
    const StepCosts costs = run.costs();
    SCOPED_TRACE(text_of(costs));
    for (const Rehearsal::Operation& o : costs.operations) {
      EXPECT_NE(o.name, "unnamed");
      EXPECT_GT(o.num_nodes(), 0) << o.name;
      EXPECT_GT(o.traffic.bytes, 0) << o.name;
    }
    EXPECT_EQ(costs.graph.memsets + costs.graph.copies, 0);
    EXPECT_EQ(operation(costs, "sgd").num_nodes(), 1);
  }
}

// Who teaches is decided within the launch while the batch fits on the device, else by three of them.
TEST_P(StepCostsOf, TheChoiceOfATeacherIsNoLaunchOfItsOwn) {
  for (const auto& [batch, nodes] : {std::pair{128, 1}, std::pair{4096, 3}}) {
    SCOPED_TRACE(batch);
    Trial run({.method = "competitive",
               .models = {"resnet8", "resnet8"},
               .precision = GetParam(),
               .side = 8,
               .batch = batch},
              /*rehearse=*/true);
    const StepCosts costs = run.costs();
    SCOPED_TRACE(text_of(costs));
    EXPECT_EQ(operation(costs, "cohort_loss").num_nodes() + operation(costs, "loss_select").num_nodes(),
              nodes);
    EXPECT_EQ(operation(costs, "cohort_loss").calls, nodes == 1 ? 1 : 2);
  }
}

// And everything that any architecture does.
TEST_P(StepCostsOf, EveryArchitecturesOperationsHaveNamesAndFormulas) {
  for (const char* model : {"resnet8x4", "resnet20_a", "wrn_16_2", "vgg8", "mobilenet_v1",
                            "mobilenet_v2_half", "shufflenet_v1", "shufflenet_v2"}) {
    SCOPED_TRACE(model);
    Trial run({.method = "dml", .models = {model, model}, .precision = GetParam(), .batch = 4},
              /*rehearse=*/true);
    const StepCosts costs = run.costs();
    for (const Rehearsal::Operation& o : costs.operations) {
      EXPECT_NE(o.name, "unnamed");
      EXPECT_GT(o.traffic.bytes, 0) << o.name;
    }
  }
}

#if defined(COHORT_EMULATED_DEVICE)
void expect_same_step(const Job& job) {
  StepCosts costs;
  {
    Trial run(job, /*rehearse=*/true);
    costs = run.costs();
  }
  SCOPED_TRACE(text_of(costs));
  const std::size_t before = simt::device_bytes();
  Trial run(job, /*rehearse=*/false);
  run.train();
  const kernels::CapturedStep step = run.cohort->captured_step();
  ASSERT_NE(step.graph, nullptr);
  EXPECT_EQ(step.kernels, costs.graph.kernels);
  EXPECT_EQ(step.memsets, costs.graph.memsets);
  EXPECT_EQ(step.copies, costs.graph.copies);
  EXPECT_EQ(step.num_nodes(), costs.graph.num_nodes());
  int vendor = 0;
  for (const Rehearsal::Operation& o : costs.operations) vendor += o.vendor;
  const std::vector<std::string> names = simt::kernel_names(static_cast<cudaGraphExec_t>(step.graph));
  EXPECT_EQ(std::count_if(
                names.begin(), names.end(),
                [](const std::string& name) { return name.starts_with("convolution") || name == "matmul"; }),
            vendor);
  // What is said before a run is what the run takes from the device.
  EXPECT_EQ(run.ctx.arena_bytes(), costs.memory.reserved);
  EXPECT_EQ(simt::device_bytes() - before, costs.memory.reserved);
}

TEST_P(StepCostsOf, TheMainJobIsWhatTheDeviceCaptures) {
  expect_same_step({.precision = GetParam(), .side = 8, .batch = 2});
}

TEST_P(StepCostsOf, EveryMethodIsWhatTheDeviceCaptures) {
  for (const MethodInfo& info : registry()) {
    SCOPED_TRACE(info.name);
    expect_same_step({.method = info.name,
                      .models = {"resnet8", "resnet8"},
                      .precision = GetParam(),
                      .side = 8,
                      .batch = 2});
  }
  expect_same_step({.method = "adm",
                    .models = {"resnet8", "resnet8"},
                    .precision = GetParam(),
                    .side = 8,
                    .batch = 2,
                    .settings = {{"adm.di_form", "kd"}, {"adm.q", "frozen"}}});
  expect_same_step({.method = "dml",
                    .models = {"resnet8", "resnet8"},
                    .precision = GetParam(),
                    .side = 8,
                    .batch = 2,
                    .settings = {{"dml.update", "new-batch"}}});
}
#endif

}  // namespace
}  // namespace cohort::distill
