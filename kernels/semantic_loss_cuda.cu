// Mapping: a warp per class, four to a block; lanes stride over the channels, sums by shuffles in a fixed
// order. A class's two rows are read four times, out of L1 from the second time on. A block adds its warps'
// sums in their order, the block that finishes last the blocks'. Shared memory: 32 bytes.
// Bytes: kernels/semantic_loss.h.
#include <cmath>

#include "kernels/base/loss_value.h"
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/row_sums.cuh"
#include "kernels/cuda/simt.cuh"
#include "kernels/semantic_loss.h"

namespace cohort::kernels {
namespace {

// Zero between launches; a branch's launches follow each other.
__device__ unsigned finished[kMaxRowBranches];

// 1 / |g| in two factors, since |g|^2 may underflow: largest entry's and the rest's; 0, 0 for a row of zeros.
template <class A>
struct Length {
  A inv_largest = 0, inv_rest = 0;
  __device__ A unit(A g) const { return g * inv_largest * inv_rest; }
};

template <class A>
__device__ Length<A> length_of(const A* g, std::int64_t d, int lane) {
  A largest = 0;
  for (std::int64_t i = lane; i < d; i += kWarp) largest = MaxOp::apply(largest, std::abs(g[i]));
  largest = warp_max(largest);
  const A inv = largest < kSmallest<A> ? A{0} : A{1} / largest;
  A squares = 0;
  for (std::int64_t i = lane; i < d; i += kWarp) squares += (g[i] * inv) * (g[i] * inv);
  squares = warp_sum(squares);
  return inv == A{0} ? Length<A>{} : Length<A>{inv, A{1} / std::sqrt(squares)};
}

template <class A>
__device__ double run_class(const SemanticLossArgs& args, std::int64_t c, A weight, int lane) {
  const std::int64_t d = args.channels;
  const A* s = static_cast<const A*>(args.student) + c * d;
  const A* t = static_cast<const A*>(args.teacher) + c * d;
  const Length<A> of_s = length_of(s, d, lane), of_t = length_of(t, d, lane);
  A dot = 0, signs = 0, entries = 0;
  for (std::int64_t i = lane; i < d; i += kWarp) {
    const A u = of_s.unit(s[i]), v = of_t.unit(t[i]);
    dot += u * v;
    signs += sign_of(u) * sign_of(v);
    entries += sign_of(u) * sign_of(u) + sign_of(v) * sign_of(v);
  }
  dot = warp_sum(dot);
  signs = warp_sum(signs);
  entries = warp_sum(entries);
  if (args.grad_student != nullptr) {
    A* grad = static_cast<A*>(args.grad_student) + c * d;
    const A k = A{-2} * weight * signs;
    for (std::int64_t i = lane; i < d; i += kWarp)
      grad[i] = k * of_s.unit(of_t.unit(t[i]) - of_s.unit(s[i]) * dot);
  }
  return static_cast<double>(entries) - 2 * static_cast<double>(signs) * static_cast<double>(dot);
}

template <class A>
__global__ void __launch_bounds__(kRowWarps* kWarp)
    semantic_kernel(const __grid_constant__ SemanticLossArgs args, double* partial, int branch) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const double scale = 1.0 / (static_cast<double>(args.classes) * static_cast<double>(args.channels));
  const A weight = static_cast<A>(static_cast<double>(*static_cast<const A*>(args.weight)) * scale);
  double sum = 0;
  for (std::int64_t c = first_row(); c < args.classes; c += row_stride())
    sum += run_class<A>(args, c, weight, lane);
  double total = 0;
  if (sum_of_rows(sum, partial, &finished[branch], &total))
    finish_loss<A>(total * scale, args.weight, args.value, args.loss);
}

}  // namespace

std::size_t semantic_loss_workspace(CudaStream, std::int64_t classes) {
  return row_sums_workspace(classes);
}

void semantic_loss(CudaStream stream, const SemanticLossArgs& args, Workspace workspace) {
  validate(args);
  check(workspace.size() >= semantic_loss_workspace(stream, args.classes),
        "semantic_loss: workspace too small");
  const Rehearsed rehearsed(stream, "semantic_loss", traffic(args));
  dispatch_accumulator(args.dtype, [&]<class A>(std::type_identity<A>) {
    simt::launch(semantic_kernel<A>, row_sums_config(stream, args.classes), args,
                 reinterpret_cast<double*>(workspace.data()), stream.branch);
  });
}

}  // namespace cohort::kernels
