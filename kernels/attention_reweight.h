// Attention re-weighting of asymmetric decision-making: weight maps from a similarity map, and pooling under
// a weight map.
//
//   a_co[n,p] = (1 + S[n,p]) / (mean_p S[n,.] + 1 + 1e-5)      agreement
//   a_di[n,p] = (1 - S[n,p]) / (mean_p (1 - S[n,.]) + 1e-5)    disagreement
//       each is 1 everywhere on a sample where its mean, mean_p (1 + S) or mean_p (1 - S), is below 1e-4:
//       identical maps have no disagreement to point at, and the literal formula would pool zeros
//
//   pooled[n,c]   = (1/P) sum_p a[n,p] act(F[n,p,c])           act = ReLU or identity
//   grad_F[n,p,c] = grad_pooled[n,c] a[n,p] / P                where F > 0 (or everywhere); a is a constant
//
// Shapes: similarity, co, di, weights (samples, positions), A = accumulator_of(dtype); features and
// grad_features (samples, positions, channels) = NHWC, pooled, grad_pooled (samples, channels), dtype f32,
// bf16 or f64.
//
// Contract: outputs alias nothing; co or di may be null. ReLU(NaN) = NaN; its gradient at 0 is 0 and at NaN
// that of a positive number. Deterministic, capture safe, no workspace.
//
// Bytes moved: weights 3 samples positions sizeof(A); pool samples positions channels size_of(dtype) read;
// its backward the same read (ReLU only) and written.
// Method: ADM's listing with the shape (B, 1, H, W) that its broadcast intends.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct AttentionWeightsArgs {
  DType dtype = DType::f32;  // A: f32 or f64
  std::int64_t samples = 0;
  std::int64_t positions = 0;
  const void* similarity = nullptr;
  void* co = nullptr;
  void* di = nullptr;
};

struct AttentionPoolArgs {
  DType dtype = DType::f32;
  std::int64_t samples = 0;
  std::int64_t positions = 0;
  std::int64_t channels = 0;
  bool relu = true;
  const void* features = nullptr;
  const void* weights = nullptr;
  void* pooled = nullptr;
};

struct AttentionPoolBackwardArgs {
  DType dtype = DType::f32;
  std::int64_t samples = 0;
  std::int64_t positions = 0;
  std::int64_t channels = 0;
  bool relu = true;
  const void* features = nullptr;  // read only where relu
  const void* weights = nullptr;
  const void* grad_pooled = nullptr;
  void* grad_features = nullptr;
  GradMode grad_mode = GradMode::kOverwrite;
};

// By the formulas above.
inline Traffic traffic(const AttentionWeightsArgs& a) {
  return {3 * bytes_of(a.dtype, a.samples * a.positions)};
}
inline Traffic traffic(const AttentionPoolArgs& a) {
  return {bytes_of(a.dtype, a.samples * a.positions * a.channels)};
}
inline Traffic traffic(const AttentionPoolBackwardArgs& a) {
  const std::int64_t count = a.samples * a.positions * a.channels;
  return {(a.relu ? bytes_of(a.dtype, count) : 0) + written(a.dtype, count, a.grad_mode)};
}

void attention_weights(CpuStream stream, const AttentionWeightsArgs& args);
void attention_weights(CudaStream stream, const AttentionWeightsArgs& args);
void attention_pool(CpuStream stream, const AttentionPoolArgs& args);
void attention_pool(CudaStream stream, const AttentionPoolArgs& args);
void attention_pool_backward(CpuStream stream, const AttentionPoolBackwardArgs& args);
void attention_pool_backward(CudaStream stream, const AttentionPoolBackwardArgs& args);

}  // namespace cohort::kernels
