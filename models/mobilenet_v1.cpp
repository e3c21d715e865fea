#include "models/mobilenet_v1.h"

#include <array>

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
        stem_(parameters_, "conv1", "bn1", input.channels, 32, {.init = kInit}),
        layers_(make_layers(parameters_)),
        linear_(parameters_, "linear", kLayers.back().width, num_classes) {}

  Outputs forward(Context& ctx, const Tensor& input, const ForwardOptions& options) const override {
    Outputs out;
    nn::Activated x = stem_.activated(ctx, input, options.training, options.preactivation);
    keep_stage(out, x);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const Tensor filtered =
          layers_[i].depthwise.forward(ctx, x.post, {.training = options.training, .relu = true});
      x = layers_[i].pointwise.activated(ctx, filtered, options.training,
                                         options.preactivation && is_stage(i));
      if (is_stage(i)) keep_stage(out, x);
    }
    classify(ctx, out, linear_);
    return out;
  }

 private:
  static std::vector<Separable> make_layers(ParameterSet& p) {
    std::vector<Separable> layers;
    int in = 32;
    for (std::size_t i = 0; i < kLayers.size(); ++i) {
      layers.emplace_back(p, "layers." + std::to_string(i), in, kLayers[i].width, kLayers[i].stride);
      in = kLayers[i].width;
    }
    return layers;
  }

  nn::ConvNorm stem_;
  std::vector<Separable> layers_;
  nn::Linear linear_;
};

}  // namespace

std::unique_ptr<Network> make_mobilenet_v1(const std::string& name, int num_classes,
                                           const InputShape& input) {
  return std::make_unique<MobilenetV1>(name, num_classes, input);
}

}  // namespace cohort::models
