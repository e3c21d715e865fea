// ShuffleNetV2 for 32x32 images. Ma, Zhang, Zheng, Sun, "ShuffleNet V2: practical guidelines for efficient
// CNN architecture design", ECCV 2018, width 1, in the form of the distillation codes (RepDistiller,
// mdistiller): a 1x1 stem without pooling.
//
// 1x1 to 24 channels, three stages of 4, 8 and 4 blocks with 116, 232 and 464 channels, 1x1 to 1024, global
// average pooling, one linear layer. A block sends half of the channels through 1x1, 3x3 depthwise and 1x1,
// and shuffles them with the other half; the first of a stage has stride 2 and sends all of them two ways.
// Names: conv1, bn1, layer{1..3}.0.{conv1..5,bn1..5}, layer{1..3}.{i}.{conv1..3,bn1..3}, conv2, bn2, linear.
//
// Maps: f0 the stem, f1 to f3 the stages, f4 the 1024 channels. The stages before activation are in the same
// order of channels as after it (the codes named above give them without the shuffle).
#pragma once

#include <memory>

#include "models/network.h"

namespace cohort::models {

std::unique_ptr<Network> make_shufflenet_v2(const std::string& name, int num_classes,
                                            const InputShape& input);

}  // namespace cohort::models
