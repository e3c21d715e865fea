// Wide residual network for 32x32 images. Zagoruyko & Komodakis, "Wide residual networks", BMVC 2016.
//
// conv3 to 16 channels, three groups of n pre-activation blocks (depth = 6 n + 4) with widths 16k, 32k, 64k,
// a last BN + ReLU, global average pooling, one linear layer. The form of the distillation codes
// (RepDistiller): 1x1 shortcut without BN where the width changes, fed by the activated input; stride in the
// first convolution of a block. Names: conv1, block{1..3}.layer.{i}.{bn1,conv1,bn2,conv2}, .convShortcut,
// bn1, fc.
//
// Maps: this network activates at the start of a group, so f0, f1, f2 are the relu(bn1(.)) of the next
// group's first block and f3 that of the last bn1; before activation: the same without the ReLU.
#pragma once

#include <memory>

#include "models/network.h"

namespace cohort::models {

struct WideResnetConfig {
  int blocks_per_group = 2;  // n
  int widen = 2;             // k
};

std::unique_ptr<Network> make_wide_resnet(const std::string& name, int num_classes, const InputShape& input,
                                          const WideResnetConfig& config);

}  // namespace cohort::models
