// Weight maps of asymmetric decision-making and pooling under them (formulas: kernels/attention_reweight.h).
#pragma once

#include "core/context.h"

namespace cohort::ops {

struct AttentionMaps {
  Tensor co;  // (N, H, W) A: where both networks agree
  Tensor di;  // (N, H, W) A: where they disagree
};

// similarity: (N, H, W) A. The maps are constants: no gradient flows back to the similarity.
AttentionMaps attention_weights(Context& ctx, const Tensor& similarity);

// features (N, H, W, C), weights (N, H, W) A. Returns (N, C) of the features' dtype: the mean over positions
// of weights * act(features), differentiable in the features only.
Tensor attention_pool(Context& ctx, const Tensor& features, const Tensor& weights, bool relu = true);

}  // namespace cohort::ops
