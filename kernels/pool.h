// Pooling of NHWC maps: maximum, average, adaptive average, global average.
//
//   max_pool            y = max of the window, argmax = its first position in scan order (h W + w). NaN wins:
//                       the first one of the window. grad_x collects grad_y of the windows that point at it
//   avg_pool            y = sum of the window / its size. Windows are clipped to the map; the size counts
//                       padding (count_include_pad, up to the padded edge, as PyTorch does) or only what is
//                       left of the window
//   adaptive_avg_pool   bin i of `out` covers [floor(i H / out), ceil((i + 1) H / out)): PyTorch's rule
//   global_avg_pool     y (N, C) = mean over H W
//
// Window i of max_pool and avg_pool starts at i stride - padding. The caller gives the output sides (rounded
// down or up: windows that reach beyond the padded map are clipped); every window must hold at least one
// pixel of the map.
//
// Shapes: x (N, H, W, C), y (N, out_height, out_width, C) or (N, C), argmax like y, i32. f32, bf16 (summed in
// f32), f64. No alignment beyond the element's own is assumed. Contract: no aliasing, no workspace.
// Deterministic, the same bits for any number of threads: backward passes gather, each pixel summing the
// windows that cover it in scan order; global_avg_pool sums runs of at most 1024 pixels.
//
// Bytes moved, with X and Y the sizes of x and y: forward X + Y (+ 4 per element of y for argmax); backward
// the same, + X with kAccumulate. Overlapping windows are read again from the cache.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct PoolShape {
  std::int64_t batch = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t channels = 0;
  std::int64_t out_height = 0;
  std::int64_t out_width = 0;

  constexpr std::int64_t num_x() const { return batch * height * width * channels; }
  constexpr std::int64_t num_y() const { return batch * out_height * out_width * channels; }
};

struct PoolWindow {
  std::int64_t size = 1;
  std::int64_t stride = 1;
  std::int64_t padding = 0;  // at most size / 2
};

struct MaxPoolForwardArgs {
  DType dtype = DType::f32;
  PoolShape shape;
  PoolWindow window;
  const void* x = nullptr;
  void* y = nullptr;
  std::int32_t* argmax = nullptr;  // null: not wanted
};

struct MaxPoolBackwardArgs {
  DType dtype = DType::f32;
  PoolShape shape;
  PoolWindow window;
  const void* grad_y = nullptr;
  const std::int32_t* argmax = nullptr;
  void* grad_x = nullptr;
  GradMode mode = GradMode::kOverwrite;
};

struct AvgPoolForwardArgs {
  DType dtype = DType::f32;
  PoolShape shape;
  PoolWindow window;
  bool count_include_pad = true;
  const void* x = nullptr;
  void* y = nullptr;
};

struct AvgPoolBackwardArgs {
  DType dtype = DType::f32;
  PoolShape shape;
  PoolWindow window;
  bool count_include_pad = true;
  const void* grad_y = nullptr;
  void* grad_x = nullptr;
  GradMode mode = GradMode::kOverwrite;
};

// Also for global_avg_pool, which ignores the output sides.
struct AdaptiveAvgPoolForwardArgs {
  DType dtype = DType::f32;
  PoolShape shape;
  const void* x = nullptr;
  void* y = nullptr;
};

struct AdaptiveAvgPoolBackwardArgs {
  DType dtype = DType::f32;
  PoolShape shape;
  const void* grad_y = nullptr;
  void* grad_x = nullptr;
  GradMode mode = GradMode::kOverwrite;
};

// By the formulas above.
inline Traffic traffic(const MaxPoolForwardArgs& a) {
  return {bytes_of(a.dtype, a.shape.num_x() + a.shape.num_y()) +
          (a.argmax == nullptr ? 0 : 4 * a.shape.num_y())};
}
inline Traffic traffic(const MaxPoolBackwardArgs& a) {
  return {bytes_of(a.dtype, a.shape.num_y()) + 4 * a.shape.num_y() +
          written(a.dtype, a.shape.num_x(), a.mode)};
}
inline Traffic traffic(const AvgPoolForwardArgs& a) {
  return {bytes_of(a.dtype, a.shape.num_x() + a.shape.num_y())};
}
inline Traffic traffic(const AvgPoolBackwardArgs& a) {
  return {bytes_of(a.dtype, a.shape.num_y()) + written(a.dtype, a.shape.num_x(), a.mode)};
}
inline Traffic traffic(const AdaptiveAvgPoolForwardArgs& a) {
  return {bytes_of(a.dtype, a.shape.num_x() + a.shape.num_y())};
}
inline Traffic traffic(const AdaptiveAvgPoolBackwardArgs& a) {
  return {bytes_of(a.dtype, a.shape.num_y()) + written(a.dtype, a.shape.num_x(), a.mode)};
}

void max_pool_forward(CpuStream stream, const MaxPoolForwardArgs& args);
void max_pool_forward(CudaStream stream, const MaxPoolForwardArgs& args);
void max_pool_backward(CpuStream stream, const MaxPoolBackwardArgs& args);
void max_pool_backward(CudaStream stream, const MaxPoolBackwardArgs& args);
void avg_pool_forward(CpuStream stream, const AvgPoolForwardArgs& args);
void avg_pool_forward(CudaStream stream, const AvgPoolForwardArgs& args);
void avg_pool_backward(CpuStream stream, const AvgPoolBackwardArgs& args);
void avg_pool_backward(CudaStream stream, const AvgPoolBackwardArgs& args);
void adaptive_avg_pool_forward(CpuStream stream, const AdaptiveAvgPoolForwardArgs& args);
void adaptive_avg_pool_forward(CudaStream stream, const AdaptiveAvgPoolForwardArgs& args);
void adaptive_avg_pool_backward(CpuStream stream, const AdaptiveAvgPoolBackwardArgs& args);
void adaptive_avg_pool_backward(CudaStream stream, const AdaptiveAvgPoolBackwardArgs& args);
void global_avg_pool_forward(CpuStream stream, const AdaptiveAvgPoolForwardArgs& args);
void global_avg_pool_forward(CudaStream stream, const AdaptiveAvgPoolForwardArgs& args);
void global_avg_pool_backward(CpuStream stream, const AdaptiveAvgPoolBackwardArgs& args);
void global_avg_pool_backward(CudaStream stream, const AdaptiveAvgPoolBackwardArgs& args);

}  // namespace cohort::kernels
