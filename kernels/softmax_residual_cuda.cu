// Mapping: a warp per row, four to a block; lanes stride over the classes, largest logit and sums by shuffles
// in a fixed order. A row is read three times (backward four), out of L1 from the second time on. Shared
// memory: none. Bytes: kernels/softmax_residual.h.
#include <cmath>

#include "kernels/base/loss_value.h"
#include "kernels/base/rehearsal.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cuda/cohort_loss_math.cuh"
#include "kernels/cuda/row_sums.cuh"
#include "kernels/softmax_residual.h"

namespace cohort::kernels {
namespace {

template <class A>
struct Softmax {
  A largest, inv_sum;
  __device__ A operator()(A z) const { return loss::exp_of(z - largest) * inv_sum; }
};

template <class A>
__device__ Softmax<A> softmax_of(const A* z, std::int64_t classes, int lane) {
  A largest = -loss::infinity<A>();
  for (std::int64_t c = lane; c < classes; c += kWarp) largest = MaxOp::apply(largest, z[c]);
  largest = warp_max(largest);
  A sum = 0;
  for (std::int64_t c = lane; c < classes; c += kWarp) sum += loss::exp_of(z[c] - largest);
  return {largest, A{1} / warp_sum(sum)};
}

template <class A>
__global__ void __launch_bounds__(kRowWarps* kWarp)
    forward_kernel(const __grid_constant__ SoftmaxResidualArgs args) {
  const std::int64_t row = first_row();
  if (row >= args.rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t n = count_valid(args.valid_rows, args.rows);
  const A scale = n == 0 ? A{0} : static_cast<A>(1.0 / static_cast<double>(n));
  const std::int64_t classes = args.classes;
  A* r = static_cast<A*>(args.residual) + row * classes;
  const std::int64_t label = row < n ? args.labels[row] : 0;
  if (row >= n || label < 0 || label >= classes) {
    for (std::int64_t c = lane; c < classes; c += kWarp) r[c] = row >= n ? A{0} : loss::not_a_number<A>();
    return;
  }
  const A* z = static_cast<const A*>(args.logits) + row * classes;
  const Softmax<A> p = softmax_of(z, classes, lane);
  for (std::int64_t c = lane; c < classes; c += kWarp) r[c] = (p(z[c]) - (c == label ? A{1} : A{0})) * scale;
}

template <class A>
__global__ void __launch_bounds__(kRowWarps* kWarp)
    backward_kernel(const __grid_constant__ SoftmaxResidualBackwardArgs args) {
  const std::int64_t row = first_row();
  if (row >= args.rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t n = count_valid(args.valid_rows, args.rows);
  const A scale = n == 0 ? A{0} : static_cast<A>(1.0 / static_cast<double>(n));
  const bool adds = args.mode == GradMode::kAccumulate;
  const std::int64_t classes = args.classes;
  A* out = static_cast<A*>(args.grad_logits) + row * classes;
  if (row >= n) {
    if (adds) return;
    for (std::int64_t c = lane; c < classes; c += kWarp) out[c] = A{0};
    return;
  }
  const A* z = static_cast<const A*>(args.logits) + row * classes;
  const A* g = static_cast<const A*>(args.grad_residual) + row * classes;
  const Softmax<A> p = softmax_of(z, classes, lane);
  A mean = 0;
  for (std::int64_t c = lane; c < classes; c += kWarp) mean += p(z[c]) * g[c];
  mean = warp_sum(mean);
  for (std::int64_t c = lane; c < classes; c += kWarp)
    out[c] = (adds ? out[c] : A{0}) + p(z[c]) * (g[c] - mean) * scale;
}

simt::LaunchConfig config(CudaStream stream, std::int64_t rows) {
  return {.grid = static_cast<unsigned>((rows + kRowWarps - 1) / kRowWarps),
          .block = kRowWarps * kWarp,
          .stream = stream};
}

}  // namespace

void softmax_residual(CudaStream stream, const SoftmaxResidualArgs& args) {
  check(args.classes >= 1, "softmax_residual: classes are positive");
  if (args.rows == 0) return;
  const Rehearsed rehearsed(stream, "softmax_residual", traffic(args));
  dispatch_accumulator(args.dtype, [&]<class A>(std::type_identity<A>) {
    simt::launch(forward_kernel<A>, config(stream, args.rows), args);
  });
}

void softmax_residual_backward(CudaStream stream, const SoftmaxResidualBackwardArgs& args) {
  check(args.classes >= 1, "softmax_residual: classes are positive");
  if (args.rows == 0) return;
  const Rehearsed rehearsed(stream, "softmax_residual_backward", traffic(args));
  dispatch_accumulator(args.dtype, [&]<class A>(std::type_identity<A>) {
    simt::launch(backward_kernel<A>, config(stream, args.rows), args);
  });
}

}  // namespace cohort::kernels
