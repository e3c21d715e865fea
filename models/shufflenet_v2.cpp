#include "models/shufflenet_v2.h"

#include <array>
#include <optional>

#include "core/ops/channel_concat.h"
#include "core/ops/pointwise.h"

namespace cohort::models {
namespace {

constexpr nn::ConvInit kInit = nn::ConvInit::kPyTorch;
constexpr int kStem = 24;
constexpr int kLast = 1024;
constexpr int kHalves = 2;  // groups of the shuffle
constexpr std::array<int, 3> kWidths = {116, 232, 464};
constexpr std::array<int, 3> kBlocks = {3, 7, 3};  // beside the one with stride

// Stride 2, two ways: depthwise and 1x1; 1x1, depthwise and 1x1.
class DownBlock {
 public:
  DownBlock(ParameterSet& p, const std::string& name, int in, int half)
      : conv1_(p, name + ".conv1", name + ".bn1", in, in, nn::depthwise(kInit, in, 2)),
        conv2_(p, name + ".conv2", name + ".bn2", in, half, nn::pointwise(kInit)),
        conv3_(p, name + ".conv3", name + ".bn3", in, half, nn::pointwise(kInit)),
        conv4_(p, name + ".conv4", name + ".bn4", half, half, nn::depthwise(kInit, half, 2)),
        conv5_(p, name + ".conv5", name + ".bn5", half, half, nn::pointwise(kInit)) {}

  Tensor forward(Context& ctx, const Tensor& x, bool training) const {
    const nn::BatchNorm2d::Options linear{.training = training}, relu{.training = training, .relu = true};
    const Tensor left = conv2_.forward(ctx, conv1_.forward(ctx, x, linear), relu);
    const Tensor filtered = conv4_.forward(ctx, conv3_.forward(ctx, x, relu), linear);
    return ops::channel_concat(ctx, {left}, {conv5_.forward(ctx, filtered, relu)}, kHalves);
  }

 private:
  nn::ConvNorm conv1_, conv2_, conv3_, conv4_, conv5_;
};

class BasicBlock {
 public:
  BasicBlock(ParameterSet& p, const std::string& name, int half)
      : half_(half),
        conv1_(p, name + ".conv1", name + ".bn1", half, half, nn::pointwise(kInit)),
        conv2_(p, name + ".conv2", name + ".bn2", half, half, nn::depthwise(kInit, half, 1)),
        conv3_(p, name + ".conv3", name + ".bn3", half, half, nn::pointwise(kInit)) {}

  nn::Activated forward(Context& ctx, const Tensor& x, bool training, bool keep_pre) const {
    const nn::BatchNorm2d::Options linear{.training = training}, relu{.training = training, .relu = true};
    const ops::ChannelSlice passed{x, 0, half_};
    const Tensor second = conv1_.forward(ctx, ops::channel_slice(ctx, {x, half_, half_}), relu);
    const Tensor filtered = conv2_.forward(ctx, second, linear);
    if (!keep_pre)
      return {{}, ops::channel_concat(ctx, passed, {conv3_.forward(ctx, filtered, relu)}, kHalves)};
    // The half that passed is activated already, so that one ReLU serves the whole map.
    const Tensor pre = ops::channel_concat(ctx, passed, {conv3_.forward(ctx, filtered, linear)}, kHalves);
    return {pre, ops::relu(ctx, pre)};
  }

 private:
  int half_;
  nn::ConvNorm conv1_, conv2_, conv3_;
};

struct Stage {
  DownBlock down;
  std::vector<BasicBlock> blocks;
};

class ShufflenetV2 final : public Network {
 public:
  ShufflenetV2(const std::string& name, int num_classes, const InputShape& input)
      : Network(name, num_classes, input),
        stem_(parameters_, "conv1", "bn1", input.channels, kStem, nn::pointwise(kInit)) {
    end_part();
    int in = kStem;
    for (std::size_t s = 0; s < kWidths.size(); ++s) {
      const std::string stage = "layer" + std::to_string(s + 1) + ".";
      const int half = kWidths[s] / 2;
      stages_.push_back({DownBlock(parameters_, stage + "0", in, half), {}});
      for (int i = 1; i <= kBlocks[s]; ++i) {
        stages_.back().blocks.emplace_back(parameters_, stage + std::to_string(i), half);
      }
      in = kWidths[s];
      end_part();
    }
    conv2_.emplace(parameters_, "conv2", "bn2", in, kLast, nn::pointwise(kInit));
    end_part();
    linear_.emplace(parameters_, "linear", kLast, num_classes);
  }

  const nn::Linear& classifier() const override { return *linear_; }

 protected:
  Tensor run_part(Context& ctx, int index, const Tensor& input, const ForwardOptions& options,
                  Outputs& out) const override {
    nn::Activated x{{}, input};
    if (index == 0 || index + 1 == num_parts()) {
      const nn::ConvNorm& layer = index == 0 ? stem_ : *conv2_;
      x = layer.activated(ctx, input, options.training, options.preactivation);
    } else {
      const Stage& stage = stages_[static_cast<std::size_t>(index - 1)];
      x.post = stage.down.forward(ctx, input, options.training);
      for (const BasicBlock& block : stage.blocks) {
        const bool last = &block == &stage.blocks.back();
        x = block.forward(ctx, x.post, options.training, options.preactivation && last);
      }
    }
    keep_stage(out, x);
    return x.post;
  }

 private:
  nn::ConvNorm stem_;
  std::vector<Stage> stages_;
  std::optional<nn::ConvNorm> conv2_;
  std::optional<nn::Linear> linear_;
};

}  // namespace

std::unique_ptr<Network> make_shufflenet_v2(const std::string& name, int num_classes,
                                            const InputShape& input) {
  return std::make_unique<ShufflenetV2>(name, num_classes, input);
}

}  // namespace cohort::models
