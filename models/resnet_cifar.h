// ResNet for 32x32 images. He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2.
//
// conv3 + BN + ReLU, three stages of n basic blocks (depth = 6 n + 2), stride 2 at the start of stages 2 and
// 3, global average pooling, one linear layer. Tensor names, shortcut and initialisation follow the
// distillation codes (RepDistiller, mdistiller): conv1, bn1, layer{1..3}.{i}.{conv1,bn1,conv2,bn2},
// .downsample.{0,1}, fc.
//
// Option A shortcuts (no parameters: every second pixel, zero channels on both sides) are the paper's own
// CIFAR form.
#pragma once

#include <array>
#include <memory>

#include "models/network.h"

namespace cohort::models {

struct ResnetCifarConfig {
  int blocks_per_stage = 3;                      // n
  std::array<int, 4> widths = {16, 16, 32, 64};  // stem and stages
  bool option_a = false;                         // shortcut without parameters
};

std::unique_ptr<Network> make_resnet_cifar(const std::string& name, int num_classes, const InputShape& input,
                                           const ResnetCifarConfig& config);

}  // namespace cohort::models
