// A few images as a network's input, outside of training.
#pragma once

#include <vector>

#include "core/image_set.h"

namespace cohort::distill {

// Normalised pixels, (N, H, W, C), as evaluation sees them.
std::vector<double> pixels_of(const ImageSet& images);

}  // namespace cohort::distill
