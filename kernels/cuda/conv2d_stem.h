// The gradient of the weights of a first layer, whose few input channels no library reads 16 bytes at a time.
#pragma once

#include <cstddef>

#include "kernels/conv2d.h"

namespace cohort::kernels::cuda {

// At most 4 input channels, 128 filters of 160 weights each (7x7 windows of 3 channels have 147), one group.
bool is_stem(const Conv2dShape& shape);

// grad_weight = (accumulate: grad_weight +) sum over n, p, q of grad_y x, as in conv2d_backward_weights, for
// bf16 operands and an f32 result, of any alignment. Two launches: sums over chunks of positions, then the
// chunks in order. Sums in f32 in an order that depends on the shape only. Bytes: x and grad_y once (x from
// the cache for all but the first tap), the result, and the partial sums of stem_workspace() bytes twice.
void stem_backward_weights(CudaStream stream, const Conv2dBackwardWeightsArgs& args);
std::size_t stem_workspace(const Conv2dShape& shape);

}  // namespace cohort::kernels::cuda
