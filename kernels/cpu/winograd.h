// Winograd convolution for AVX-512: F(4x4, 3x3) in f32, 36 multiplications per tile of 4x4 outputs where the
// definition takes 144; F(2x2, 3x3), 16 in place of 36, in bf16, for tiny maps and for many channels. For
// 3x3, stride 1, undilated, ungrouped convolutions of 16 m to 16 n channels.
//
//   forward        Y  = A^T [(G g G^T) (.) (B^T d B)] A    summed over input channels: a matrix product per
//   point backward data  the same with the filters turned by 180 degrees and the channels swapped backward
//   weights  dg = G^T [(A dY A^T) (.) (B^T d B)] G    summed over tiles: a matrix product per point
//
// Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016. F(2x2) has only 0,
// +-1 and +-1/2 in its matrices, so that small integers stay exact; F(4x4) has not. With the interpolation
// points of winograd4_avx512.h its f32 errors are no larger than those of a direct sum, which adds up more
// terms in a row (figures in tests/kernels/conv2d_test.cpp).
//
// bf16: the transformed values are rounded to bf16 once more before they are multiplied (sums stay f32). That
// costs about the error of one more rounding of the operands, which the direct sum of exact products does not
// have.
//
// A tile block of the input is transformed, multiplied and transformed back while it stays in the core's L2;
// nothing but activations and the transformed filters is read from or written to memory. Every output is
// formed by one thread in one order. NaN and infinity reach all outputs of a tile.
#pragma once

#include <cstddef>

#include "kernels/conv2d.h"

namespace cohort::kernels::winograd {

// Whether this pass can and should run here: on this CPU, for this shape.
bool supports(const Conv2dShape& shape, DType dtype, Conv2dPass pass);

// A slice is a run of `slice_images` images, the unit of parallel work; there are `slices` of them.
std::size_t workspace(CpuStream stream, const Conv2dShape& shape, DType dtype, Conv2dPass pass,
                      std::int64_t slices);

void forward(CpuStream stream, const Conv2dForwardArgs& args, std::int64_t slice_images);
void backward_data(CpuStream stream, const Conv2dBackwardDataArgs& args, std::int64_t slice_images);
void backward_weights(CpuStream stream, const Conv2dBackwardWeightsArgs& args, std::int64_t slice_images);

const char* implementation(const Conv2dShape& shape, DType dtype, Conv2dPass pass);

}  // namespace cohort::kernels::winograd
