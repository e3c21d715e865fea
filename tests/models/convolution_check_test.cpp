// No convolution of any network of the registry runs on a slow path, and one that would is found.
#include "models/convolution_check.h"

#include <gtest/gtest.h>

#include "models/registry.h"

namespace cohort::models {
namespace {

// Layers with their shapes; the parameters are never used, so only the network's own smallest batch is run.
std::vector<LayerRecord> layers_of(const std::string& model) {
  const std::unique_ptr<Network> network = make_network(model, 100);
  return summarize(*network).layers;
}

TEST(ConvolutionCheck, NoNetworkHasASlowLayer) {
#ifndef __x86_64__
  GTEST_SKIP() << "the fast paths are those of x86-64";
#endif
  const Context ctx({.num_threads = 1});
  ASSERT_GE(registry().size(), 16U);
  for (const ModelInfo& info : registry()) {
    const std::vector<LayerRecord> layers = layers_of(info.name);
    int convolutions = 0;
    for (const LayerRecord& layer : layers) convolutions += layer.convolution.k > 0 ? 1 : 0;
    EXPECT_GE(convolutions, 5) << info.name;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const SlowConvolution& slow : slow_convolutions(ctx, layers, 128, dtype)) {
        ADD_FAILURE() << info.name << " " << slow.layer << " " << name_of(slow.pass) << " "
                      << cohort::name_of(dtype) << ": " << slow.implementation;
      }
    }
  }
}

// Double precision has plain loops only, so every pass of every layer must be reported, but for the images'
// gradient.
TEST(ConvolutionCheck, NamesWhatIsSlow) {
  const Context ctx({.num_threads = 1});
  LayerRecord stem{.name = "conv1", .type = "conv2d", .input = {}, .output = {}};
  stem.convolution = {.n = 1, .h = 8, .w = 8, .c = 3, .k = 16, .kh = 3, .kw = 3, .padding = 1};
  LayerRecord second = stem;
  second.name = "conv2";
  second.convolution.c = 16;
  LayerRecord same = second;
  same.name = "conv3";
  LayerRecord linear{.name = "fc", .type = "linear", .input = {}, .output = {}};
  const std::vector<LayerRecord> layers = {stem, second, same, linear};
  const std::vector<SlowConvolution> slow = slow_convolutions(ctx, layers, 4, DType::f64);
  ASSERT_EQ(slow.size(), 5U);
  EXPECT_EQ(slow[0].layer, "conv1");
  EXPECT_EQ(slow[1].pass, kernels::Conv2dPass::kBackwardWeights);
  EXPECT_EQ(slow[2].layer, "conv2");
  EXPECT_EQ(slow[2].shape.n, 4);
  EXPECT_EQ(slow[4].implementation, "plain");
}

TEST(ConvolutionCheck, SlowNames) {
  for (const char* name : {"ref:any", "gemm:jit", "jit_gemm", "plain"})
    EXPECT_TRUE(is_slow_implementation(name));
  for (const char* name : {"winograd:avx2", "brgconv:avx512_core", "jit:avx2"})
    EXPECT_FALSE(is_slow_implementation(name));
}

}  // namespace
}  // namespace cohort::models
