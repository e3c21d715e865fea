// VGG for 32x32 images. Simonyan & Zisserman, "Very deep convolutional networks for large-scale image
// recognition", ICLR 2015, with batch normalisation and without the hidden linear layers.
//
// Five blocks of conv3 (with bias) + BN + ReLU, 64, 128, 256, 512, 512 channels wide, a 2x2 max-pool after
// each of the first three (after the fourth too where the image is 64 pixels high), global average pooling,
// one linear layer. Tensor names and initialisation follow the distillation codes (RepDistiller, mdistiller):
// block{0..4}.{3 i} a convolution, .{3 i + 1} its normalisation, classifier.
//
// Maps: f0 to f4 are the blocks' last activations, before the pooling.
#pragma once

#include <memory>

#include "models/network.h"

namespace cohort::models {

struct VggConfig {
  int layers_per_block = 1;
};

std::unique_ptr<Network> make_vgg(const std::string& name, int num_classes, const InputShape& input,
                                  const VggConfig& config);

}  // namespace cohort::models
