// A matrix product with a workspace of the context, for operations that are made of some.
#pragma once

#include "core/context.h"
#include "kernels/matmul.h"

namespace cohort::ops {

// As kernels::matmul; `workspace` is filled in.
void matmul(Context& ctx, kernels::MatmulArgs args);

}  // namespace cohort::ops
