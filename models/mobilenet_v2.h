// MobileNetV2 for 32x32 images. Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks",
// CVPR 2018, in the form of the distillation codes (RepDistiller, mdistiller): ReLU in place of ReLU6, stride
// 1 in the second group of blocks, and the 1x1 expansion also in the first block, which expands by 1.
//
// conv3 of stride 2, seven groups of blocks (1x1 to t times the width, 3x3 depthwise, 1x1 back, without
// activation at the end), 1x1 to 1280 channels, global average pooling, one linear layer. Names: conv1.{0,1},
// blocks.{g}.{i}.conv.{0,1,3,4,6,7}, conv2.{0,1}, classifier.0.
//
// Maps: f0 the stem; f1 to f4 groups 1, 2, 4 and 6, which end without activation, so that each is its own map
// before activation; f5 the 1280 channels.
#pragma once

#include <memory>

#include "models/network.h"

namespace cohort::models {

struct MobilenetV2Config {
  double width = 0.5;
};

std::unique_ptr<Network> make_mobilenet_v2(const std::string& name, int num_classes, const InputShape& input,
                                           const MobilenetV2Config& config);

}  // namespace cohort::models
