// ShuffleNet for 32x32 images. Zhang, Zhou, Lin, Sun, "ShuffleNet: an extremely efficient convolutional
// neural network for mobile devices", CVPR 2018, with three groups, in the form of the distillation codes
// (RepDistiller, mdistiller): a 1x1 stem without pooling, and a ReLU after the depthwise convolution too.
//
// 1x1 to 24 channels, three stages of 4, 8 and 4 blocks with 240, 480 and 960 channels (1x1 in groups +
// shuffle, 3x3 depthwise, 1x1 in groups; the first block of a stage has stride 2 and concatenates the
// average-pooled input), global average pooling, one linear layer. Names: conv1, bn1,
// layer{1..3}.{i}.{conv1,bn1,conv2,bn2,conv3,bn3}, linear.
//
// Maps: f0 the stem, f1 to f3 the stages.
#pragma once

#include <memory>

#include "models/network.h"

namespace cohort::models {

std::unique_ptr<Network> make_shufflenet_v1(const std::string& name, int num_classes,
                                            const InputShape& input);

}  // namespace cohort::models
