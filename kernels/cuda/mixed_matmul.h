// Matrix products whose operands have different dtypes, which no library multiplies: the gradients of a
// bf16 classifier, whose logits and their gradients are f32.
#pragma once

#include "kernels/matmul.h"

namespace cohort::kernels::cuda {

// matmul() for f32 and bf16 in any mixture, in one launch and without a copy of an operand: values are
// widened (exactly) on their way to shared memory, products and sums are f32, one rounding at the end. Each
// element is one sum in the order of k. Bytes: each matrix once where op(A) and op(B) have at most 32 rows
// and columns, else once per 32 columns (A) or rows (B) of C, from the cache.
void mixed_matmul(CudaStream stream, const MatmulArgs& args);

}  // namespace cohort::kernels::cuda
