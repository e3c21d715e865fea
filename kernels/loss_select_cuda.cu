// One launch. Block 0 writes W (a thread per entry, each scanning the members: they are few and the losses
// sit in one cache line); every block does its 256 rows of row_winner, a thread per row, so that each
// member's losses are read coalesced and once. Moves members * rows * sizeof(A) + 4 * rows bytes. No shared
// memory; registers (sm_90): f32 32, f64 32.
#include "kernels/base/rehearsal.h"
#include "kernels/loss_select.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/cuda/simt.cuh"

namespace cohort::kernels {
namespace {

constexpr int kThreads = 256;

template <class A>
__device__ bool is_finite(A x) {
  return x - x == 0;
}

// Lowest index of the smallest finite value among values[0], values[stride], ...; -1: none is finite.
template <class A>
__device__ int finite_argmin(const A* values, int count, std::int64_t stride) {
  int best = -1;
  A least = 0;
  for (int k = 0; k < count; ++k) {
    const A v = values[k * stride];
    if (!is_finite(v) || (best >= 0 && !(v < least))) continue;
    best = k;
    least = v;
  }
  return best;
}

// W[i][j] / weight: 1 / (number of i's teachers) where j teaches i, else 0.
template <class A>
__device__ double share(const LossSelectArgs& args, const A* ce, int teacher, int i, int j) {
  if (args.rule == SelectRule::kArgmin) return j == teacher && i != j ? 1 : 0;
  int better = 0;
  for (int k = 0; k < args.members; ++k) better += is_finite(ce[k]) && ce[k] < ce[i] ? 1 : 0;
  return is_finite(ce[j]) && ce[j] < ce[i] ? 1.0 / better : 0;
}

template <class A>
__device__ void write_weights(const LossSelectArgs& args) {
  const A* ce = static_cast<const A*>(args.ce);
  const int members = args.members;
  const int teacher = finite_argmin(ce, members, 1);
  if (threadIdx.x == 0 && args.teacher != nullptr) *args.teacher = teacher;
  const int masked = args.masked_member == nullptr ? -1 : *args.masked_member;
  for (int at = static_cast<int>(threadIdx.x); at < members * members; at += kThreads) {
    const int i = at / members;
    const int j = at % members;
    const double s = share(args, ce, teacher, i, j);
    const bool comparable = i != masked && j != masked;
    if (args.kl_weight != nullptr) static_cast<A*>(args.kl_weight)[at] = static_cast<A>(args.kl * s);
    if (args.feature_weight != nullptr) {
      static_cast<A*>(args.feature_weight)[at] = comparable ? static_cast<A>(args.feature * s) : A{0};
    }
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads) select_kernel(const LossSelectArgs args) {
  if (blockIdx.x == 0) write_weights<A>(args);
  if (args.row_winner == nullptr) return;
  const std::int64_t b = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (b >= args.rows) return;
  const std::int64_t valid = args.valid_rows == nullptr ? args.rows : *args.valid_rows;
  const A* losses = static_cast<const A*>(args.ce_rows) + b;
  args.row_winner[b] = b < valid ? finite_argmin(losses, args.members, args.rows) : -1;
}

}  // namespace

void loss_select(CudaStream stream, const LossSelectArgs& args) {
  const Rehearsed rehearsed(stream, "loss_select", traffic(args));
  check(args.members >= 1, "loss_select: no members");
  check(args.ce != nullptr, "loss_select: no losses");
  check(args.row_winner == nullptr || args.ce_rows != nullptr, "loss_select: row_winner needs ce_rows");
  check(args.dtype == DType::f32 || args.dtype == DType::f64, "loss_select: losses are f32 or f64");
  const std::int64_t rows = args.row_winner == nullptr ? 0 : args.rows;
  const auto blocks = static_cast<unsigned>(std::max<std::int64_t>(1, (rows + kThreads - 1) / kThreads));
  const auto kernel = args.dtype == DType::f64 ? select_kernel<double> : select_kernel<float>;
  simt::launch(kernel, {.grid = blocks, .block = kThreads, .stream = stream}, args);
}

}  // namespace cohort::kernels
