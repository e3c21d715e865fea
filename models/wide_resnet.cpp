#include "models/wide_resnet.h"

#include <array>
#include <optional>

#include "core/ops/pointwise.h"
#include "nn/layers.h"

namespace cohort::models {
namespace {

class Block {
 public:
  Block(ParameterSet& p, const std::string& name, int in, int out, int stride)
      : bn1_(p, name + ".bn1", in),
        conv1_(p, name + ".conv1", in, out, {.stride = stride}),
        bn2_(p, name + ".bn2", out),
        conv2_(p, name + ".conv2", out, out, {}) {
    if (in != out) {
      shortcut_.emplace(p, name + ".convShortcut", in, out,
                        nn::Conv2d::Options{.kernel = 1, .stride = stride, .padding = 0});
    }
  }

  // `activated`, when asked for, receives the block's activated input.
  Tensor forward(Context& ctx, const Tensor& x, const ForwardOptions& options,
                 nn::Activated* activated) const {
    const bool keep_pre = activated != nullptr && options.preactivation;
    const nn::Activated a = nn::activate(ctx, bn1_, x, options.training, keep_pre);
    if (activated != nullptr) *activated = a;
    const Tensor h =
        bn2_.forward(ctx, conv1_.forward(ctx, a.post), {.training = options.training, .relu = true});
    return ops::add(ctx, conv2_.forward(ctx, h), shortcut_ ? shortcut_->forward(ctx, a.post) : x);
  }

 private:
  nn::BatchNorm2d bn1_;
  nn::Conv2d conv1_;
  nn::BatchNorm2d bn2_;
  nn::Conv2d conv2_;
  std::optional<nn::Conv2d> shortcut_;
};

class WideResnet final : public Network {
 public:
  WideResnet(const std::string& name, int num_classes, const InputShape& input,
             const WideResnetConfig& config)
      : Network(name, num_classes, input), conv1_(parameters_, "conv1", input.channels, 16, {}) {
    end_part();
    int in = 16;
    for (int group = 1; group <= 3; ++group) {
      const int out = 16 * config.widen << (group - 1);
      for (int i = 0; i < config.blocks_per_group; ++i) {
        const std::string block = "block" + std::to_string(group) + ".layer." + std::to_string(i);
        groups_[group - 1].emplace_back(parameters_, block, in, out, group > 1 && i == 0 ? 2 : 1);
        in = out;
      }
      if (group == 3) bn1_.emplace(parameters_, "bn1", in);
      end_part();
    }
    fc_.emplace(parameters_, "fc", in, num_classes, nn::LinearInit::kZeroBias);
  }

  const nn::Linear& classifier() const override { return *fc_; }

 protected:
  // What a group hands on is not activated yet: the next group does that, and keeps the map.
  Tensor run_part(Context& ctx, int index, const Tensor& input, const ForwardOptions& options,
                  Outputs& out) const override {
    if (index == 0) return conv1_.forward(ctx, input);
    Tensor x = input;
    const auto& group = groups_[static_cast<std::size_t>(index - 1)];
    for (const Block& block : group) {
      const bool first = &block == &group.front();
      nn::Activated activated;
      x = block.forward(ctx, x, options, first ? &activated : nullptr);
      if (first) keep_stage(out, activated);
    }
    if (index == 3) keep_stage(out, nn::activate(ctx, *bn1_, x, options.training, options.preactivation));
    return x;
  }

 private:
  nn::Conv2d conv1_;
  std::array<std::vector<Block>, 3> groups_;
  std::optional<nn::BatchNorm2d> bn1_;
  std::optional<nn::Linear> fc_;
};

}  // namespace

std::unique_ptr<Network> make_wide_resnet(const std::string& name, int num_classes, const InputShape& input,
                                          const WideResnetConfig& config) {
  return std::make_unique<WideResnet>(name, num_classes, input, config);
}

}  // namespace cohort::models
