// Adam with L2 weight decay: one call updates every block of parameters. Of each block that steps
//
//   t = t + 1
//   g = gradient + weight_decay * p
//   m = beta1 * m + (1 - beta1) * g
//   v = beta2 * v + (1 - beta2) * g * g
//   p = p - learning_rate / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
//
// PyTorch's rule (torch.optim.Adam: the decay is part of the gradient, which AdamW does not do; no amsgrad).
// Source: Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015. Without decay p enters no
// product. The powers of beta are products in double by repeated squaring: the same bits on every device.
//
// Shapes: per block flat arrays (count); t () i32; learning_rate (blocks) of `dtype`; step_mask (owners) i32.
// Contract: in place on parameter, m, v and t, all zeros before the first step but the parameter; blocks do
// not overlap. A block whose owner has mask 0 is not touched at all (t and shadow included). Element-wise, so
// the bits depend on nothing but the inputs. `workspace`: adam_workspace(blocks) bytes.
//
// Bytes per element: f32 28 (read p, g, m, v; write p, m, v), + 2 with a bf16 shadow.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/base/dtype.h"
#include "kernels/base/host_device.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct AdamBlock {
  void* parameter = nullptr;       // dtype
  const void* gradient = nullptr;  // dtype
  void* mean = nullptr;            // dtype: m
  void* square = nullptr;          // dtype: v
  std::int32_t* steps = nullptr;   // t
  bf16* shadow = nullptr;          // the new parameters rounded to bf16, or null
  std::int64_t count = 0;
  double weight_decay = 0.0;
  int owner = 0;  // whose entry of step_mask decides
};

struct AdamArgs {
  std::span<const AdamBlock> blocks = {};
  const void* learning_rate = nullptr;      // (blocks) dtype, device memory
  const std::int32_t* step_mask = nullptr;  // (owners), device memory; null: every block steps
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  DType dtype = DType::f32;  // f32 or f64
};

// What the bias corrections make of a step: of the rate, and of sqrt(v).
struct AdamScale {
  double rate, root;
};

// beta^n, n >= 0.
COHORT_HOST_DEVICE inline double adam_power(double beta, std::int32_t n) {
  double power = 1.0;
  for (; n > 0; n >>= 1, beta *= beta) {
    if ((n & 1) != 0) power *= beta;
  }
  return power;
}

// Of step t, from 1.
COHORT_HOST_DEVICE inline AdamScale adam_scale(double learning_rate, double beta1, double beta2,
                                               std::int32_t t) {
  return {learning_rate / (1.0 - adam_power(beta1, t)), 1.0 / std::sqrt(1.0 - adam_power(beta2, t))};
}

inline std::size_t adam_workspace(std::size_t blocks) {
  return blocks * sizeof(AdamScale);
}

// By the formula above.
inline Traffic traffic(const AdamArgs& a) {
  Traffic moved;
  for (const AdamBlock& b : a.blocks)
    moved.bytes += 7 * bytes_of(a.dtype, b.count) + (b.shadow == nullptr ? 0 : 2 * b.count);
  return moved;
}

void adam(CpuStream stream, const AdamArgs& args, Workspace workspace);
void adam(CudaStream stream, const AdamArgs& args, Workspace workspace);

}  // namespace cohort::kernels
