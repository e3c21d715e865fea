// cuDNN's plans for a GPU that is not there: whether every convolution of every model has a deterministic way
// to run, and what workspace it wants. COHORT_LONG=1 asks for all models, batch 128, on both devices, and
// finishes every plan; else ResNet-32 and WRN-16-2 on an H100, the first plan that works.
#include <dlfcn.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "kernels/cuda/cudnn_graph.h"
#include "kernels/cuda/plan_cache.h"
#include "kernels/cuda/shared_library.h"
#include "models/registry.h"

namespace cohort::kernels::cuda {
namespace {

constexpr std::int64_t kBatch = 128;
constexpr std::size_t kAll = 1000;

bool is_long() {
  const char* const asked = std::getenv("COHORT_LONG");
  return asked != nullptr && asked[0] == '1';
}

Descriptor device_of(const std::string& name) {
  std::ifstream file(std::string(COHORT_SOURCE_DIR) + "/tests/vendor/devices/" + name + ".json");
  const auto json = nlohmann::json::parse(file);
  return described_device(json.at("device").dump());
}

struct Layer {
  std::string model, name;
  Conv2dShape shape;
  bool first = false;  // nobody asks for the gradient of the images
};

// The distinct convolutions of the models, each with the model that has it first.
std::vector<Layer> layers_of(const std::vector<std::string>& names) {
  std::vector<Layer> layers;
  std::set<std::pair<Conv2dShape, bool>> seen;
  for (const std::string& name : names) {
    const auto network = models::make_network(name, 100);
    bool first = true;
    for (const LayerRecord& record : models::summarize(*network).layers) {
      if (record.convolution.k == 0) continue;
      Conv2dShape shape = record.convolution;
      shape.n = kBatch;
      if (seen.insert({shape, first}).second) layers.push_back({name, record.name, shape, first});
      first = false;
    }
  }
  return layers;
}

struct Precision {
  DType dtype;
  bool tf32;
};

class CudnnPlans : public ::testing::Test {
 protected:
  void SetUp() override {
    const FoundLibrary found = find_library(cudnn_name());
    if (found.handle == nullptr) GTEST_SKIP() << "no cuDNN here: " << found.problem;
  }
};

struct Line {
  std::size_t acceptable = 0, plans = 0, first_workspace = 0, largest_workspace = 0;
  std::string first;
};

Line plans_of(const ConvolutionKey& key, const PlanTarget& target, bool all) {
  Line line;
  const auto graph = ConvolutionGraph::make(key, target);
  if (!graph) return line;
  std::vector<EngineConfig> candidates = graph->candidates(target, kAll);
  line.acceptable = candidates.size();
  for (EngineConfig& candidate : candidates) {
    const auto plan = ExecutionPlan::make(std::move(candidate), target);
    if (!plan) continue;
    if (line.plans++ == 0) {
      line.first = plan->name();
      line.first_workspace = plan->workspace_bytes();
    }
    line.largest_workspace = std::max(line.largest_workspace, plan->workspace_bytes());
    if (!all) break;
  }
  return line;
}

double mebibytes(std::size_t bytes) {
  return static_cast<double>(bytes) / (1 << 20);
}

void check_all(const std::string& device_name, const std::vector<std::string>& models, bool all) {
  const Descriptor device = device_of(device_name);
  const PlanTarget target{.device = &device};
  const std::vector<Layer> layers = layers_of(models);
  std::size_t keys = 0, without = 0;
  fmt::print("{}: {} distinct convolutions of {} models\n", device_name, layers.size(), models.size());
  for (const Layer& layer : layers) {
    for (const Precision& precision :
         {Precision{DType::bf16, false}, {DType::f32, true}, {DType::f32, false}}) {
      for (const Conv2dPass pass :
           {Conv2dPass::kForward, Conv2dPass::kBackwardData, Conv2dPass::kBackwardWeights}) {
        if (layer.first && pass == Conv2dPass::kBackwardData) continue;
        const ConvolutionKey key{.shape = layer.shape,
                                 .dtype = precision.dtype,
                                 .result = precision.dtype,
                                 .pass = pass,
                                 .tf32 = precision.tf32};
        const Line line = plans_of(key, target, all);
        ++keys;
        without += line.plans == 0 ? 1 : 0;
        EXPECT_GT(line.plans, 0U) << layer.model << " " << layer.name << ": " << text_of(key);
        fmt::print(
            "  {:<96} {:>3} engines, {:>7.2f} MiB{}  {}\n", text_of(key), line.acceptable,
            mebibytes(line.first_workspace),
            all ? fmt::format(" (largest {:.2f}, {} plans)", mebibytes(line.largest_workspace), line.plans)
                : "",
            line.first);
      }
    }
  }
  fmt::print("{}: {} passes, {} without a deterministic plan\n", device_name, keys, without);
}

TEST_F(CudnnPlans, EveryConvolutionOfTheModelsHasADeterministicPlan) {
  if (!is_long()) return check_all("h100", {"resnet32", "wrn_16_2"}, false);
  std::vector<std::string> names;
  for (const models::ModelInfo& info : models::registry()) names.push_back(info.name);
  for (const char* device : {"h100", "a100"}) check_all(device, names, true);
}

const Conv2dShape kLayer{.n = kBatch, .h = 32, .w = 32, .c = 16, .k = 16, .kh = 3, .kw = 3, .padding = 1};

TEST_F(CudnnPlans, EnginesThatMayDifferFromRunToRunAreProposedAndDropped) {
  const Descriptor device = device_of("h100");
  const PlanTarget target{.device = &device};
  const ConvolutionKey key{.shape = kLayer, .pass = Conv2dPass::kBackwardData, .tf32 = true};
  const auto graph = ConvolutionGraph::make(key, target);
  ASSERT_TRUE(graph);
  std::set<std::string> dropped;
  for (const auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_B, CUDNN_HEUR_MODE_FALLBACK}) {
    for (const EngineConfig& config : graph->propose(mode, target)) {
      if (config.notes.nondeterministic) dropped.insert(config.name);
    }
  }
  EXPECT_FALSE(dropped.empty());
  for (const EngineConfig& config : graph->candidates(target, kAll))
    EXPECT_FALSE(dropped.contains(config.name));
}

TEST_F(CudnnPlans, PlainF32TakesNoTensorCores) {
  const Descriptor device = device_of("h100");
  const PlanTarget target{.device = &device};
  ConvolutionKey key{.shape = kLayer};
  const auto exact = ConvolutionGraph::make(key, target)->candidates(target, kAll);
  key.tf32 = true;
  const auto rounded = ConvolutionGraph::make(key, target)->candidates(target, kAll);
  ASSERT_FALSE(exact.empty());
  EXPECT_GT(rounded.size(), exact.size());
  for (const EngineConfig& config : exact) EXPECT_FALSE(config.notes.tensor_core) << config.name;
}

// What the plan cache relies on.
TEST_F(CudnnPlans, NamesAreDistinctAndComeAgain) {
  const Descriptor device = device_of("h100");
  const PlanTarget target{.device = &device};
  const ConvolutionKey key{.shape = kLayer, .dtype = DType::bf16, .result = DType::bf16};
  const auto names = [&] {
    std::vector<std::string> all;
    for (const EngineConfig& config :
         ConvolutionGraph::make(key, target)->propose(CUDNN_HEUR_MODE_B, target)) {
      all.push_back(config.name);
    }
    return all;
  };
  const std::vector<std::string> first = names();
  EXPECT_EQ(names(), first);
  EXPECT_GT(std::set<std::string>(first.begin(), first.end()).size(), first.size() / 2);
}

TEST_F(CudnnPlans, ResultsCanBeAddedToWhatIsThere) {
  const Descriptor device = device_of("h100");
  const PlanTarget target{.device = &device};
  for (const DType dtype : {DType::bf16, DType::f32}) {
    const ConvolutionKey key{.shape = kLayer,
                             .dtype = dtype,
                             .result = dtype,
                             .pass = Conv2dPass::kBackwardData,
                             .accumulate = true};
    EXPECT_GT(plans_of(key, target, false).plans, 0U) << text_of(key);
  }
}

TEST_F(CudnnPlans, GroupsDilationAndOddChannelsHavePlans) {
  const Descriptor device = device_of("h100");
  const PlanTarget target{.device = &device};
  const Conv2dShape odd{
      .n = 2, .h = 9, .w = 7, .c = 17, .k = 33, .kh = 5, .kw = 5, .stride = 3, .padding = 5};
  Conv2dShape depthwise = kLayer;
  depthwise.groups = 16;
  Conv2dShape halves = kLayer;
  halves.groups = 2;
  Conv2dShape dilated = kLayer;
  dilated.dilation = dilated.padding = 2;
  for (const Conv2dShape& shape : {odd, depthwise, halves, dilated}) {
    for (const DType dtype : {DType::bf16, DType::f32}) {
      for (const Conv2dPass pass :
           {Conv2dPass::kForward, Conv2dPass::kBackwardData, Conv2dPass::kBackwardWeights}) {
        const ConvolutionKey key{.shape = shape, .dtype = dtype, .result = dtype, .pass = pass};
        EXPECT_GT(plans_of(key, target, false).plans, 0U) << text_of(key);
      }
    }
  }
}

// The engines that write another dtype than they read are compiled at run time and need the driver's library
// even to be proposed; the toolkit's stub of it will do for that.
TEST_F(CudnnPlans, WeightGradientsInF32FromBf16AreProposedWhereADriverCanBeLoaded) {
  const std::string& library = cudnn().path;
  const std::string stub = library.substr(0, library.rfind('/')) + "/stubs/libcuda.so";
  if (dlopen("libcuda.so.1", RTLD_NOW) == nullptr && dlopen(stub.c_str(), RTLD_NOW) == nullptr) {
    GTEST_SKIP() << "neither a driver nor " << stub;
  }
  const Descriptor device = device_of("h100");
  const PlanTarget target{.device = &device};
  ConvolutionKey key{
      .shape = kLayer, .dtype = DType::bf16, .result = DType::f32, .pass = Conv2dPass::kBackwardWeights};
  const auto graph = ConvolutionGraph::make(key, target);
  ASSERT_TRUE(graph);
  EXPECT_FALSE(graph->candidates(target, kAll).empty());
  key.accumulate = true;
  EXPECT_FALSE(ConvolutionGraph::make(key, target));
}

TEST_F(CudnnPlans, ADeviceThatMakesNoSenseIsAnError) {
  EXPECT_THROW(described_device("{}"), Error);
  EXPECT_THROW(described_device("not JSON"), Error);
}

}  // namespace
}  // namespace cohort::kernels::cuda
