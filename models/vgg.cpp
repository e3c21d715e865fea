#include "models/vgg.h"

#include <array>
#include <optional>

#include "core/ops/pool.h"

namespace cohort::models {
namespace {

class Vgg final : public Network {
 public:
  Vgg(const std::string& name, int num_classes, const InputShape& input, const VggConfig& config)
      : Network(name, num_classes, input) {
    constexpr std::array<int, 5> kWidths = {64, 128, 256, 512, 512};
    int in = input.channels;
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      const std::string block = "block" + std::to_string(b) + ".";
      for (int i = 0; i < config.layers_per_block; ++i) {
        blocks_[b].emplace_back(parameters_, block + std::to_string(3 * i), block + std::to_string(3 * i + 1),
                                in, kWidths[b], nn::Conv2d::Options{.bias = true, .zero_bias = true});
        in = kWidths[b];
      }
      end_part();
    }
    classifier_.emplace(parameters_, "classifier", in, num_classes, nn::LinearInit::kNormal);
  }

  const nn::Linear& classifier() const override { return *classifier_; }

 protected:
  Tensor run_part(Context& ctx, int index, const Tensor& input_map, const ForwardOptions& options,
                  Outputs& out) const override {
    const int num_pools = input().height == 64 ? 4 : 3;
    const auto& block = blocks_[static_cast<std::size_t>(index)];
    nn::Activated x{{}, input_map};
    for (const nn::ConvNorm& layer : block) {
      const bool keep_pre = options.preactivation && &layer == &block.back();
      x = layer.activated(ctx, x.post, options.training, keep_pre);
    }
    keep_stage(out, x);
    return index < num_pools ? ops::max_pool(ctx, x.post, {.size = 2, .stride = 2}) : x.post;
  }

 private:
  std::array<std::vector<nn::ConvNorm>, 5> blocks_;
  std::optional<nn::Linear> classifier_;
};

}  // namespace

std::unique_ptr<Network> make_vgg(const std::string& name, int num_classes, const InputShape& input,
                                  const VggConfig& config) {
  return std::make_unique<Vgg>(name, num_classes, input, config);
}

}  // namespace cohort::models
