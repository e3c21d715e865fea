#include "models/shufflenet_v1.h"

#include <array>
#include <optional>

#include "core/ops/channel_concat.h"
#include "core/ops/pool.h"

namespace cohort::models {
namespace {

constexpr nn::ConvInit kInit = nn::ConvInit::kPyTorch;
constexpr int kGroups = 3;
constexpr int kStem = 24;
constexpr std::array<int, 3> kWidths = {240, 480, 960};
constexpr std::array<int, 3> kBlocks = {4, 8, 4};

class Bottleneck {
 public:
  // `out` channels of its own; with stride 2 those of the input follow them.
  Bottleneck(ParameterSet& p, const std::string& name, int in, int out, int stride)
      : first_groups_(in == kStem ? 1 : kGroups),
        stride_(stride),
        conv1_(p, name + ".conv1", name + ".bn1", in, out / 4, nn::pointwise(kInit, first_groups_)),
        conv2_(p, name + ".conv2", name + ".bn2", out / 4, out / 4, nn::depthwise(kInit, out / 4, stride)),
        conv3_(p, name + ".conv3", name + ".bn3", out / 4, out, nn::pointwise(kInit, kGroups)) {}

  nn::Activated forward(Context& ctx, const Tensor& x, bool training, bool keep_pre) const {
    const nn::BatchNorm2d::Options relu{.training = training, .relu = true};
    const Tensor squeezed = ops::channel_shuffle(ctx, conv1_.forward(ctx, x, relu), first_groups_);
    const Tensor filtered = conv2_.forward(ctx, squeezed, relu);
    if (stride_ == 1) return conv3_.activated(ctx, filtered, training, keep_pre, x);
    // The average of an activated map needs no ReLU, so that the one of the sum is the normalisation's.
    const Tensor pooled = ops::avg_pool(ctx, x, {.size = 3, .stride = 2, .padding = 1});
    return {{}, ops::channel_concat(ctx, {conv3_.forward(ctx, filtered, relu)}, {pooled})};
  }

 private:
  int first_groups_, stride_;
  nn::ConvNorm conv1_, conv2_, conv3_;
};

class ShufflenetV1 final : public Network {
 public:
  ShufflenetV1(const std::string& name, int num_classes, const InputShape& input)
      : Network(name, num_classes, input),
        stem_(parameters_, "conv1", "bn1", input.channels, kStem, nn::pointwise(kInit)) {
    end_part();
    int in = kStem;
    for (std::size_t s = 0; s < stages_.size(); ++s) {
      for (int i = 0; i < kBlocks[s]; ++i) {
        const std::string block = "layer" + std::to_string(s + 1) + "." + std::to_string(i);
        const int own = kWidths[s] - (i == 0 ? in : 0);
        stages_[s].emplace_back(parameters_, block, in, own, i == 0 ? 2 : 1);
        in = kWidths[s];
      }
      end_part();
    }
    linear_.emplace(parameters_, "linear", in, num_classes);
  }

  const nn::Linear& classifier() const override { return *linear_; }

 protected:
  Tensor run_part(Context& ctx, int index, const Tensor& input, const ForwardOptions& options,
                  Outputs& out) const override {
    nn::Activated x{{}, input};
    if (index == 0) {
      x = stem_.activated(ctx, input, options.training, options.preactivation);
    } else {
      const auto& stage = stages_[static_cast<std::size_t>(index - 1)];
      for (const Bottleneck& block : stage) {
        const bool last = &block == &stage.back();
        x = block.forward(ctx, x.post, options.training, options.preactivation && last);
      }
    }
    keep_stage(out, x);
    return x.post;
  }

 private:
  nn::ConvNorm stem_;
  std::array<std::vector<Bottleneck>, 3> stages_;
  std::optional<nn::Linear> linear_;
};

}  // namespace

std::unique_ptr<Network> make_shufflenet_v1(const std::string& name, int num_classes,
                                            const InputShape& input) {
  return std::make_unique<ShufflenetV1>(name, num_classes, input);
}

}  // namespace cohort::models
