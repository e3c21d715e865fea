#include "models/mobilenet_v1.h"

#include <array>
#include <optional>

namespace cohort::models {
namespace {

constexpr nn::ConvInit kInit = nn::ConvInit::kPyTorch;

struct Separable {
  nn::ConvNorm depthwise, pointwise;

  Separable(ParameterSet& p, const std::string& name, int in, int out, int stride)
      : depthwise(p, name + ".conv1", name + ".bn1", in, in, nn::depthwise(kInit, in, stride)),
        pointwise(p, name + ".conv2", name + ".bn2", in, out, nn::pointwise(kInit)) {}
};

struct Layer {
  int width, stride;
};

constexpr std::array<Layer, 13> kLayers = {{{64, 1},
                                            {128, 2},
                                            {128, 1},
                                            {256, 2},
                                            {256, 1},
                                            {512, 2},
                                            {512, 1},
                                            {512, 1},
                                            {512, 1},
                                            {512, 1},
                                            {512, 1},
                                            {1024, 2},
                                            {1024, 1}}};

// The layer before one that halves the sides, and the last; the first layer has the sides of the stem.
bool is_stage(std::size_t i) {
  return i > 0 && (i + 1 == kLayers.size() || kLayers[i + 1].stride == 2);
}

class MobilenetV1 final : public Network {
 public:
  MobilenetV1(const std::string& name, int num_classes, const InputShape& input)
      : Network(name, num_classes, input),
        stem_(parameters_, "conv1", "bn1", input.channels, 32, {.init = kInit}) {
    end_part();
    int in = 32;
    for (std::size_t i = 0; i < kLayers.size(); ++i) {
      layers_.emplace_back(parameters_, "layers." + std::to_string(i), in, kLayers[i].width,
                           kLayers[i].stride);
      in = kLayers[i].width;
      if (is_stage(i)) end_part();
    }
    linear_.emplace(parameters_, "linear", in, num_classes);
  }

  const nn::Linear& classifier() const override { return *linear_; }

 protected:
  Tensor run_part(Context& ctx, int index, const Tensor& input, const ForwardOptions& options,
                  Outputs& out) const override {
    nn::Activated x{{}, input};
    if (index == 0) x = stem_.activated(ctx, input, options.training, options.preactivation);
    int part = 1;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (part == index) {
        const Tensor filtered =
            layers_[i].depthwise.forward(ctx, x.post, {.training = options.training, .relu = true});
        x = layers_[i].pointwise.activated(ctx, filtered, options.training,
                                           options.preactivation && is_stage(i));
      }
      part += is_stage(i) ? 1 : 0;
    }
    keep_stage(out, x);
    return x.post;
  }

 private:
  nn::ConvNorm stem_;
  std::vector<Separable> layers_;
  std::optional<nn::Linear> linear_;
};

}  // namespace

std::unique_ptr<Network> make_mobilenet_v1(const std::string& name, int num_classes,
                                           const InputShape& input) {
  return std::make_unique<MobilenetV1>(name, num_classes, input);
}

}  // namespace cohort::models
