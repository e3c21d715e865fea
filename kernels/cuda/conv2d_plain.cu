#include "kernels/cuda/conv2d_plain.h"

#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/simt.cuh"
#include "kernels/cuda/vec.cuh"

namespace cohort::kernels::cuda {
namespace {

constexpr int kBlock = 256;
constexpr int kWarps = 4;  // of a block of the weights' kernel

unsigned blocks_for(std::int64_t threads) {
  return static_cast<unsigned>((threads + kBlock - 1) / kBlock);
}

// Conv2dShape with the derived extents worked out once.
struct Geometry {
  std::int64_t n, h, w, c, k, out_h, out_w, c_per_group, k_per_group;
  int kh, kw, stride, padding, dilation;
};

Geometry geometry_of(const Conv2dShape& s) {
  return {s.n,  s.h,  s.w,      s.c,       s.k,       s.out_h(), s.out_w(), s.c / s.groups, s.k / s.groups,
          s.kh, s.kw, s.stride, s.padding, s.dilation};
}

__device__ inline std::int64_t input_position(const Geometry& g, std::int64_t out, int tap) {
  return out * g.stride - g.padding + static_cast<std::int64_t>(tap) * g.dilation;
}

// The output position that input position `at` meets through `tap`, or -1.
__device__ inline std::int64_t output_position(const Geometry& g, std::int64_t at, int tap,
                                               std::int64_t extent) {
  const std::int64_t shifted = at + g.padding - static_cast<std::int64_t>(tap) * g.dilation;
  if (shifted < 0 || shifted % g.stride != 0 || shifted / g.stride >= extent) return -1;
  return shifted / g.stride;
}

template <class T>
__global__ void forward_kernel(Geometry g, const T* x, const T* weight, const Accumulator<T>* bias, T* y) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (at >= g.n * g.out_h * g.out_w * g.k) return;
  const std::int64_t k = at % g.k;
  const std::int64_t q = at / g.k % g.out_w;
  const std::int64_t p = at / g.k / g.out_w % g.out_h;
  const std::int64_t image = at / g.k / g.out_w / g.out_h;
  Accumulator<T> sum = 0;
  for (int r = 0; r < g.kh; ++r) {
    const std::int64_t row = input_position(g, p, r);
    if (row < 0 || row >= g.h) continue;
    for (int t = 0; t < g.kw; ++t) {
      const std::int64_t column = input_position(g, q, t);
      if (column < 0 || column >= g.w) continue;
      const T* const pixel =
          x + ((image * g.h + row) * g.w + column) * g.c + k / g.k_per_group * g.c_per_group;
      const T* const tap = weight + ((k * g.kh + r) * g.kw + t) * g.c_per_group;
      for (std::int64_t i = 0; i < g.c_per_group; ++i) sum += to_float(pixel[i]) * to_float(tap[i]);
    }
  }
  y[at] = from_float<T>(bias == nullptr ? sum : sum + bias[k]);
}

template <class T>
__global__ void backward_data_kernel(Geometry g, const T* grad_y, const T* weight, T* grad_x,
                                     bool accumulate) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (at >= g.n * g.h * g.w * g.c) return;
  const std::int64_t group = at % g.c / g.c_per_group;
  const std::int64_t channel = at % g.c % g.c_per_group;
  const std::int64_t column = at / g.c % g.w;
  const std::int64_t row = at / g.c / g.w % g.h;
  const std::int64_t image = at / g.c / g.w / g.h;
  Accumulator<T> sum = 0;
  for (int r = 0; r < g.kh; ++r) {
    const std::int64_t p = output_position(g, row, r, g.out_h);
    if (p < 0) continue;
    for (int t = 0; t < g.kw; ++t) {
      const std::int64_t q = output_position(g, column, t, g.out_w);
      if (q < 0) continue;
      const T* const gradient = grad_y + ((image * g.out_h + p) * g.out_w + q) * g.k;
      for (std::int64_t k = group * g.k_per_group; k < (group + 1) * g.k_per_group; ++k) {
        sum +=
            to_float(gradient[k]) * to_float(weight[((k * g.kh + r) * g.kw + t) * g.c_per_group + channel]);
      }
    }
  }
  grad_x[at] = from_float<T>(accumulate ? to_float(grad_x[at]) + sum : sum);
}

// One warp per element of the weight.
template <class T>
__global__ void backward_weights_kernel(Geometry g, const T* x, const T* grad_y, Accumulator<T>* grad_weight,
                                        bool accumulate) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (at >= g.k * g.kh * g.kw * g.c_per_group) return;  // whole warps
  const std::int64_t channel = at % g.c_per_group;
  const auto t = static_cast<int>(at / g.c_per_group % g.kw);
  const auto r = static_cast<int>(at / g.c_per_group / g.kw % g.kh);
  const std::int64_t k = at / g.c_per_group / g.kw / g.kh;
  const std::int64_t x_channel = k / g.k_per_group * g.c_per_group + channel;
  Accumulator<T> sum = 0;
  const std::int64_t outputs = g.n * g.out_h * g.out_w;
  for (std::int64_t i = lane; i < outputs; i += kWarp) {
    const std::int64_t row = input_position(g, i / g.out_w % g.out_h, r);
    const std::int64_t column = input_position(g, i % g.out_w, t);
    if (row < 0 || row >= g.h || column < 0 || column >= g.w) continue;
    const std::int64_t image = i / g.out_w / g.out_h;
    sum +=
        to_float(grad_y[i * g.k + k]) * to_float(x[((image * g.h + row) * g.w + column) * g.c + x_channel]);
  }
  sum = warp_sum(sum);
  if (lane == 0) grad_weight[at] = accumulate ? grad_weight[at] + sum : sum;
}

}  // namespace

void plain_conv2d_forward(CudaStream stream, const Conv2dForwardArgs& a) {
  dispatch_float(a.dtype, [&]<class T>(std::type_identity<T>) {
    simt::launch(forward_kernel<T>, {.grid = blocks_for(a.shape.num_y()), .block = kBlock, .stream = stream},
                 geometry_of(a.shape), static_cast<const T*>(a.x), static_cast<const T*>(a.weight),
                 static_cast<const Accumulator<T>*>(a.bias), static_cast<T*>(a.y));
  });
}

void plain_conv2d_backward_data(CudaStream stream, const Conv2dBackwardDataArgs& a) {
  dispatch_float(a.dtype, [&]<class T>(std::type_identity<T>) {
    simt::launch(backward_data_kernel<T>,
                 {.grid = blocks_for(a.shape.num_x()), .block = kBlock, .stream = stream},
                 geometry_of(a.shape), static_cast<const T*>(a.grad_y), static_cast<const T*>(a.weight),
                 static_cast<T*>(a.grad_x), a.mode == GradMode::kAccumulate);
  });
}

void plain_conv2d_backward_weights(CudaStream stream, const Conv2dBackwardWeightsArgs& a) {
  dispatch_float(a.dtype, [&]<class T>(std::type_identity<T>) {
    const auto blocks = static_cast<unsigned>((a.shape.num_weight() + kWarps - 1) / kWarps);
    simt::launch(backward_weights_kernel<T>, {.grid = blocks, .block = kWarps * kWarp, .stream = stream},
                 geometry_of(a.shape), static_cast<const T*>(a.x), static_cast<const T*>(a.grad_y),
                 static_cast<Accumulator<T>*>(a.grad_weight), a.weight_mode == GradMode::kAccumulate);
  });
}

}  // namespace cohort::kernels::cuda
