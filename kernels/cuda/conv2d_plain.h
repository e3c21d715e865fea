// Convolution without a library, for what cuDNN does not do: f64 (gradient checks) and shapes for which it
// has no deterministic plan. One thread or one block forms each element, in one fixed order: correct and
// slow.
#pragma once

#include "kernels/conv2d.h"

namespace cohort::kernels::cuda {

void plain_conv2d_forward(CudaStream stream, const Conv2dForwardArgs& args);
void plain_conv2d_backward_data(CudaStream stream, const Conv2dBackwardDataArgs& args);
// grad_weight only.
void plain_conv2d_backward_weights(CudaStream stream, const Conv2dBackwardWeightsArgs& args);

}  // namespace cohort::kernels::cuda
