#include "models/convolution_check.h"

#include <set>

#include "core/dispatch.h"

namespace cohort::models {

bool is_slow_implementation(const std::string& name) {
  for (const char* slow : {"ref", "gemm", "plain"}) {
    if (name.find(slow) != std::string::npos) return true;
  }
  return false;
}

const char* name_of(kernels::Conv2dPass pass) {
  switch (pass) {
    case kernels::Conv2dPass::kForward:
      return "forward";
    case kernels::Conv2dPass::kBackwardData:
      return "backward data";
    case kernels::Conv2dPass::kBackwardWeights:
      return "backward weights";
  }
  return "";
}

std::vector<SlowConvolution> slow_convolutions(const Context& ctx, std::span<const LayerRecord> layers,
                                               std::int64_t batch, DType dtype) {
  using kernels::Conv2dPass;
  std::vector<SlowConvolution> slow;
  std::set<std::pair<kernels::Conv2dShape, Conv2dPass>> asked;
  bool first = true;
  for (const LayerRecord& layer : layers) {
    if (layer.convolution.k == 0) continue;
    kernels::Conv2dShape shape = layer.convolution;
    shape.n = batch;
    for (const Conv2dPass pass :
         {Conv2dPass::kForward, Conv2dPass::kBackwardData, Conv2dPass::kBackwardWeights}) {
      if (first && pass == Conv2dPass::kBackwardData) continue;
      if (!asked.insert({shape, pass}).second) continue;
      const std::string name = on_device(
          ctx, [&](auto stream) { return kernels::conv2d_implementation(stream, shape, dtype, pass); });
      if (is_slow_implementation(name)) slow.push_back({layer.name, shape, pass, name});
    }
    first = false;
  }
  return slow;
}

}  // namespace cohort::models
