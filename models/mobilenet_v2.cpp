#include "models/mobilenet_v2.h"

#include <algorithm>
#include <array>
#include <optional>

namespace cohort::models {
namespace {

constexpr nn::ConvInit kInit = nn::ConvInit::kKaimingFanOut;

// x + bn(project(relu(bn(depthwise(relu(bn(expand(x)))))))), the sum where the shapes are equal.
class InvertedResidual {
 public:
  InvertedResidual(ParameterSet& p, const std::string& name, int in, int out, int stride, int expansion)
      : expand_(p, name + ".conv.0", name + ".conv.1", in, in * expansion, nn::pointwise(kInit)),
        depthwise_(p, name + ".conv.3", name + ".conv.4", in * expansion, in * expansion,
                   nn::depthwise(kInit, in * expansion, stride)),
        project_(p, name + ".conv.6", name + ".conv.7", in * expansion, out, nn::pointwise(kInit)),
        residual_(stride == 1 && in == out) {}

  Tensor forward(Context& ctx, const Tensor& x, bool training) const {
    const Tensor expanded = expand_.forward(ctx, x, {.training = training, .relu = true});
    const Tensor filtered = depthwise_.forward(ctx, expanded, {.training = training, .relu = true});
    return project_.forward(ctx, filtered, {.training = training}, residual_ ? x : Tensor{});
  }

 private:
  nn::ConvNorm expand_, depthwise_, project_;
  bool residual_;
};

struct Group {
  int expansion, width, blocks, stride;
};

constexpr std::array<Group, 7> kGroups = {{{1, 16, 1, 1},
                                           {6, 24, 2, 1},
                                           {6, 32, 3, 2},
                                           {6, 64, 4, 2},
                                           {6, 96, 3, 1},
                                           {6, 160, 3, 2},
                                           {6, 320, 1, 1}}};

// The group before one that halves the sides, and two whose maps are compared besides: parts of one or two
// groups.
constexpr bool ends_stage(std::size_t group) {
  return group == 1 || group == 2 || group == 4 || group == 6;
}
constexpr int kConv2 = 5;  // the part behind the groups

class MobilenetV2 final : public Network {
 public:
  MobilenetV2(const std::string& name, int num_classes, const InputShape& input,
              const MobilenetV2Config& config)
      : Network(name, num_classes, input) {
    const auto scaled = [&](int width) { return static_cast<int>(width * config.width); };
    int in = scaled(32);
    conv1_.emplace(parameters_, "conv1.0", "conv1.1", input.channels, in, nn::Conv2d::Options{.stride = 2});
    end_part();
    for (std::size_t g = 0; g < kGroups.size(); ++g) {
      const int out = scaled(kGroups[g].width);
      for (int i = 0; i < kGroups[g].blocks; ++i) {
        const std::string block = "blocks." + std::to_string(g) + "." + std::to_string(i);
        groups_[g].emplace_back(parameters_, block, in, out, i == 0 ? kGroups[g].stride : 1,
                                kGroups[g].expansion);
        in = out;
      }
      if (ends_stage(g)) end_part();
    }
    const int last = std::max(1280, scaled(1280));
    conv2_.emplace(parameters_, "conv2.0", "conv2.1", in, last, nn::pointwise(kInit));
    end_part();
    classifier_.emplace(parameters_, "classifier.0", last, num_classes, nn::LinearInit::kNormal);
  }

  const nn::Linear& classifier() const override { return *classifier_; }

 protected:
  Tensor run_part(Context& ctx, int index, const Tensor& input, const ForwardOptions& options,
                  Outputs& out) const override {
    nn::Activated x{{}, input};
    if (index == 0 || index == kConv2) {
      const nn::ConvNorm& layer = index == 0 ? *conv1_ : *conv2_;
      x = layer.activated(ctx, input, options.training, options.preactivation);
    } else {
      int part = 1;
      for (std::size_t g = 0; g < groups_.size(); ++g) {
        for (const InvertedResidual& block : groups_[g])
          if (part == index) x.post = block.forward(ctx, x.post, options.training);
        part += ends_stage(g) ? 1 : 0;
      }
      if (options.preactivation) x.pre = x.post;
    }
    keep_stage(out, x);
    return x.post;
  }

 private:
  std::optional<nn::ConvNorm> conv1_;
  std::array<std::vector<InvertedResidual>, kGroups.size()> groups_;
  std::optional<nn::ConvNorm> conv2_;
  std::optional<nn::Linear> classifier_;
};

}  // namespace

std::unique_ptr<Network> make_mobilenet_v2(const std::string& name, int num_classes, const InputShape& input,
                                           const MobilenetV2Config& config) {
  return std::make_unique<MobilenetV2>(name, num_classes, input, config);
}

}  // namespace cohort::models
