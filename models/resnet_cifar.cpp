#include "models/resnet_cifar.h"

#include <optional>

#include "core/ops/pointwise.h"
#include "nn/layers.h"

namespace cohort::models {
namespace {

// relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)).
class BasicBlock {
 public:
  BasicBlock(ParameterSet& p, const std::string& name, int in, int out, int stride, bool option_a)
      : conv1_(p, name + ".conv1", in, out, {.stride = stride}),
        bn1_(p, name + ".bn1", out),
        conv2_(p, name + ".conv2", out, out, {}),
        bn2_(p, name + ".bn2", out),
        stride_(stride),
        out_(out) {
    if (stride == 1 && in == out) return;
    if (option_a) {
      shortcut_a_ = true;
    } else {
      shortcut_conv_.emplace(p, name + ".downsample.0", in, out,
                             nn::Conv2d::Options{.kernel = 1, .stride = stride, .padding = 0});
      shortcut_bn_.emplace(p, name + ".downsample.1", out);
    }
  }

  nn::Activated forward(Context& ctx, const Tensor& x, bool training, bool keep_pre) const {
    Tensor shortcut = x;
    if (shortcut_a_) shortcut = ops::shortcut_a(ctx, x, stride_, out_);
    if (shortcut_conv_)
      shortcut = shortcut_bn_->forward(ctx, shortcut_conv_->forward(ctx, x), {.training = training});
    const Tensor h = bn1_.forward(ctx, conv1_.forward(ctx, x), {.training = training, .relu = true});
    return nn::activate(ctx, bn2_, conv2_.forward(ctx, h), training, keep_pre, shortcut);
  }

 private:
  nn::Conv2d conv1_;
  nn::BatchNorm2d bn1_;
  nn::Conv2d conv2_;
  nn::BatchNorm2d bn2_;
  int stride_, out_;
  bool shortcut_a_ = false;
  std::optional<nn::Conv2d> shortcut_conv_;
  std::optional<nn::BatchNorm2d> shortcut_bn_;
};

class ResnetCifar final : public Network {
 public:
  ResnetCifar(const std::string& name, int num_classes, const InputShape& input,
              const ResnetCifarConfig& config)
      : Network(name, num_classes, input),
        conv1_(parameters_, "conv1", input.channels, config.widths[0], {}),
        bn1_(parameters_, "bn1", config.widths[0]) {
    end_part();
    int in = config.widths[0];
    for (int stage = 1; stage <= 3; ++stage) {
      const int out = config.widths[stage];
      for (int i = 0; i < config.blocks_per_stage; ++i) {
        const std::string block = "layer" + std::to_string(stage) + "." + std::to_string(i);
        blocks_[stage - 1].emplace_back(parameters_, block, in, out, stage > 1 && i == 0 ? 2 : 1,
                                        config.option_a);
        in = out;
      }
      end_part();
    }
    fc_.emplace(parameters_, "fc", in, num_classes);
  }

  const nn::Linear& classifier() const override { return *fc_; }

 protected:
  Tensor run_part(Context& ctx, int index, const Tensor& input, const ForwardOptions& options,
                  Outputs& out) const override {
    nn::Activated x{{}, input};
    if (index == 0) {
      x = nn::activate(ctx, bn1_, conv1_.forward(ctx, input), options.training, options.preactivation);
    } else {
      const auto& stage = blocks_[static_cast<std::size_t>(index - 1)];
      for (const BasicBlock& block : stage)
        x = block.forward(ctx, x.post, options.training, options.preactivation && &block == &stage.back());
    }
    keep_stage(out, x);
    return x.post;
  }

 private:
  nn::Conv2d conv1_;
  nn::BatchNorm2d bn1_;
  std::array<std::vector<BasicBlock>, 3> blocks_;
  std::optional<nn::Linear> fc_;
};

}  // namespace

std::unique_ptr<Network> make_resnet_cifar(const std::string& name, int num_classes, const InputShape& input,
                                           const ResnetCifarConfig& config) {
  return std::make_unique<ResnetCifar>(name, num_classes, input, config);
}

}  // namespace cohort::models
