// MobileNet for 32x32 images. Howard et al., "MobileNets: efficient convolutional neural networks for mobile
// vision applications", 2017, with stride 1 in the stem, as in the codes of SwitOKD.
//
// conv3 to 32 channels, thirteen separable convolutions (3x3 depthwise + BN + ReLU, 1x1 + BN + ReLU), global
// average pooling, one linear layer. Names: conv1, bn1, layers.{i}.{conv1,bn1,conv2,bn2}, linear.
//
// Maps: f0 the stem; f1 to f4 the last of each resolution below it, those of mdistiller.
#pragma once

#include <memory>

#include "models/network.h"

namespace cohort::models {

std::unique_ptr<Network> make_mobilenet_v1(const std::string& name, int num_classes, const InputShape& input);

}  // namespace cohort::models
