// Which convolutions of a network would run on a slow path: asked once before training, because such a layer
// costs a multiple of its time in every step and nothing else shows it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/context.h"

namespace cohort::models {

// Code that vendors fall back to when no fast path takes a shape: its name holds "ref", "gemm" or "plain".
bool is_slow_implementation(const std::string& name);

const char* name_of(kernels::Conv2dPass pass);

struct SlowConvolution {
  std::string layer;
  kernels::Conv2dShape shape;
  kernels::Conv2dPass pass;
  std::string implementation;
};

// Of the layers of one network, logged with any batch size, for batches of `batch` images: every pass that a
// training step takes. Equal shapes are asked for once and reported with the first layer of their kind; the
// first convolution has no backward data pass, since nobody needs the gradient of the images.
std::vector<SlowConvolution> slow_convolutions(const Context& ctx, std::span<const LayerRecord> layers,
                                               std::int64_t batch, DType dtype);

}  // namespace cohort::models
