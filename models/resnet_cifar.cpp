#include "models/resnet_cifar.h"

#include <optional>

#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "nn/layers.h"

namespace cohort::models {
namespace {

// relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)); the last ReLU is fused unless its input is wanted.
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

  // `pre`, when asked for, receives the sum before the last ReLU.
  Tensor forward(Context& ctx, const Tensor& x, bool training, Tensor* pre) const {
    Tensor shortcut = x;
    if (shortcut_a_) shortcut = ops::shortcut_a(ctx, x, stride_, out_);
    if (shortcut_conv_)
      shortcut = shortcut_bn_->forward(ctx, shortcut_conv_->forward(ctx, x), {.training = training});
    const Tensor h = bn1_.forward(ctx, conv1_.forward(ctx, x), {.training = training, .relu = true});
    const Tensor y = conv2_.forward(ctx, h);
    if (pre == nullptr) return bn2_.forward(ctx, y, {.training = training, .relu = true}, shortcut);
    *pre = bn2_.forward(ctx, y, {.training = training}, shortcut);
    return ops::relu(ctx, *pre);
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
    int in = config.widths[0];
    for (int stage = 1; stage <= 3; ++stage) {
      const int out = config.widths[stage];
      for (int i = 0; i < config.blocks_per_stage; ++i) {
        const std::string block = "layer" + std::to_string(stage) + "." + std::to_string(i);
        blocks_[stage - 1].emplace_back(parameters_, block, in, out, stage > 1 && i == 0 ? 2 : 1,
                                        config.option_a);
        in = out;
      }
    }
    fc_.emplace(parameters_, "fc", in, num_classes);
  }

  Outputs forward(Context& ctx, const Tensor& input, const ForwardOptions& options) const override {
    Outputs out;
    Tensor x = conv1_.forward(ctx, input);
    if (options.preactivation) {
      out.stages_pre.push_back(bn1_.forward(ctx, x, {.training = options.training}));
      x = ops::relu(ctx, out.stages_pre.back());
    } else {
      x = bn1_.forward(ctx, x, {.training = options.training, .relu = true});
    }
    out.stages.push_back(x);
    for (const auto& stage : blocks_) {
      for (const BasicBlock& block : stage) {
        const bool want_pre = options.preactivation && &block == &stage.back();
        Tensor pre;
        x = block.forward(ctx, x, options.training, want_pre ? &pre : nullptr);
        if (want_pre) out.stages_pre.push_back(pre);
      }
      out.stages.push_back(x);
    }
    out.pooled = ops::global_avg_pool(ctx, x);
    out.logits = fc_->forward(ctx, out.pooled);
    out.classifier = {fc_->weight().compute, fc_->bias().compute};
    return out;
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
