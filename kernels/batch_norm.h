// Batch normalisation of NHWC activations, with the residual addition and the ReLU that follow it fused in.
//
//   forward    y = f(gamma * (x - mean) * invstd + beta + residual),  f = ReLU or identity
//              training:   mean, var over the rows (biased); invstd = 1 / sqrt(var + eps)
//                          running_mean <- (1 - momentum) running_mean + momentum mean
//                          running_var  <- (1 - momentum) running_var  + momentum var rows / (rows - 1)
//              evaluation: mean = running_mean, var = running_var, which are constants of the backward pass
//   backward   dz = grad_y (where y > 0, if ReLU: the subgradient at 0 is 0),  xhat = (x - mean) invstd
//              grad_beta = sum dz,  grad_gamma = sum dz xhat,  grad_residual = dz
//              grad_x = gamma invstd (dz - grad_beta / rows - xhat grad_gamma / rows)   training
//              grad_x = gamma invstd dz                                                 evaluation
//              rows are all of shape.rows, or the first valid_images * rows_per_image of them: the batch of a
//              captured step has one shape, and the last batch of an epoch may be short. The rest is padding:
//              it enters no sum, its y is 0 and its gradients are 0 (kOverwrite) or untouched (kAccumulate),
//              whatever its x and grad_y hold. Results are those of a call on the valid rows alone, on the
//              CPU to the bit. Fewer than two valid rows in training leave the running statistics alone.
//   ReLU(NaN) is NaN. A NaN or Inf in a channel reaches every y of that channel in training, only its own y
//   in evaluation, and never another channel.
//
// Shapes: rows = N H W; x, y, residual and their gradients (rows, channels) dense, `dtype` (f32, bf16, f64);
// everything per channel (channels), accumulator_of(dtype). No alignment beyond the element's own is assumed.
//
// mask, where a device keeps one (batch_norm_mask_bytes): which elements the ReLU let through, one byte for
// the 16 bytes of a vector of y, bit k for its element k. The backward pass reads it in the place of y.
//
// Contract: y may be x in evaluation and residual in both modes; grad_x or grad_residual may be grad_y, and
// an accumulating grad_x may be grad_residual (y = bn(x) + x); no other two arrays overlap. Deterministic,
// the same bits for any number of threads. Every training call updates the running statistics: pass null for
// a second forward pass over the same batch.
//
// Bytes moved, S = rows * channels * size_of(dtype):
//   forward   training 3 S (read x twice, write y), evaluation 2 S; + S with a residual
//   backward  5 S (x and grad_y twice, write grad_x); + 2 S with ReLU (y twice); + S for grad_residual. Where
//             grad_residual is overwritten, dz is read back from it, so that both together cost 7 S only
//
// Method: x is read in blocks that fit the first-level cache; each block is summed twice there (mean, then
// deviations from it with the correction of the mean), and blocks and chunks are merged in double in a fixed
// order (Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
// 1979, eq. 2.1). So a mean of 1e4 over a variance of 1 costs no digit, and a constant channel has variance
// 0. Backward: Ioffe and Szegedy, "Batch Normalization", 2015, section 3, with the mean and variance terms
// collected.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct BatchNormShape {
  std::int64_t rows = 0;
  std::int64_t channels = 0;
};

struct BatchNormForwardArgs {
  DType dtype = DType::f32;
  BatchNormShape shape;
  const std::int32_t* valid_images = nullptr;  // device scalar; null: all rows are valid
  std::int64_t rows_per_image = 1;             // H W
  const void* x = nullptr;
  const void* residual = nullptr;  // null: none
  const void* gamma = nullptr;     // null: ones
  const void* beta = nullptr;      // null: zeros
  void* running_mean = nullptr;    // updated in training (null: not wanted), only read in evaluation
  void* running_var = nullptr;
  void* mean = nullptr;    // written for the backward pass; may be null in evaluation
  void* invstd = nullptr;  // written for the backward pass; may be null in evaluation
  void* y = nullptr;
  std::uint8_t* mask = nullptr;  // with ReLU only; null: not wanted
  double eps = 1e-5;
  double momentum = 0.1;  // PyTorch's sense: the weight of the new value
  bool training = true;   // false: normalise with the running statistics
  bool relu = false;
  Workspace workspace;
};

struct BatchNormBackwardArgs {
  DType dtype = DType::f32;
  BatchNormShape shape;
  const std::int32_t* valid_images = nullptr;  // device scalar; null: all rows are valid
  std::int64_t rows_per_image = 1;             // H W
  const void* x = nullptr;
  const void* y = nullptr;  // read with ReLU only, and not where there is a mask
  const std::uint8_t* mask = nullptr;
  const void* grad_y = nullptr;
  const void* gamma = nullptr;  // null: ones
  const void* mean = nullptr;   // as the forward pass wrote them
  const void* invstd = nullptr;
  void* grad_x = nullptr;  // null: not wanted (so for every gradient)
  GradMode grad_x_mode = GradMode::kOverwrite;
  void* grad_residual = nullptr;
  GradMode grad_residual_mode = GradMode::kOverwrite;
  void* grad_gamma = nullptr;
  GradMode grad_gamma_mode = GradMode::kOverwrite;
  void* grad_beta = nullptr;
  GradMode grad_beta_mode = GradMode::kOverwrite;
  bool training = true;
  bool relu = false;
  Workspace workspace;
};

// By the formulas above.
inline Traffic traffic(const BatchNormForwardArgs& a) {
  const std::int64_t s = bytes_of(a.dtype, a.shape.rows * a.shape.channels);
  return {(a.residual == nullptr ? 2 : 3) * s + (a.mask == nullptr ? 0 : s / 16), a.training ? s : 0};
}
inline Traffic traffic(const BatchNormBackwardArgs& a) {
  const std::int64_t count = a.shape.rows * a.shape.channels;
  const std::int64_t s = bytes_of(a.dtype, count);
  const std::int64_t y = !a.relu ? 0 : a.mask == nullptr ? s : s / 16;
  const bool parameters = a.grad_gamma != nullptr || a.grad_beta != nullptr;
  const bool sums = parameters || a.grad_residual != nullptr || (a.training && a.grad_x != nullptr);
  const bool dz_is_kept = a.grad_residual != nullptr && a.grad_residual_mode == GradMode::kOverwrite;
  Traffic moved{s + y + (sums ? s : 0)};
  if (a.grad_x != nullptr) moved.bytes += written(a.dtype, count, a.grad_x_mode);
  if (a.grad_residual != nullptr) moved.bytes += written(a.dtype, count, a.grad_residual_mode);
  if (sums && a.grad_x != nullptr) moved.again = s + (a.training ? s : 0) + (dz_is_kept ? 0 : y);
  return moved;
}

// Bytes of a mask; 0: none is kept, y is read.
inline std::size_t batch_norm_mask_bytes(CpuStream, DType, const BatchNormShape&) {
  return 0;
}
inline std::size_t batch_norm_mask_bytes(CudaStream, DType dtype, const BatchNormShape& shape) {
  const std::int64_t vectors =
      bytes_of(dtype, shape.channels) % 16 == 0 ? bytes_of(dtype, shape.rows * shape.channels) / 16 : 0;
  return static_cast<std::size_t>(vectors);
}

// Bytes that either pass needs, on any device and with any number of threads.
std::size_t batch_norm_workspace(const BatchNormShape& shape);

// Chunks of rows that the CUDA kernels make one pair of partial sums per channel of, at most.
std::int64_t batch_norm_device_chunks(const BatchNormShape& shape);

// Throws Error(kInternal) when training on a shape of fewer than two rows: one value per channel has no
// variance.
void batch_norm_forward(CpuStream stream, const BatchNormForwardArgs& args);
void batch_norm_forward(CudaStream stream, const BatchNormForwardArgs& args);
void batch_norm_backward(CpuStream stream, const BatchNormBackwardArgs& args);
void batch_norm_backward(CudaStream stream, const BatchNormBackwardArgs& args);

}  // namespace cohort::kernels
