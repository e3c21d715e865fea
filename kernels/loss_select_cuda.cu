// One launch. Block 0 writes W (a thread per entry, each scanning the members: they are few and the losses
// sit in one cache line); every block does its 256 rows of row_winner, a thread per row, so that each
// member's losses are read coalesced and once. Moves members * rows * sizeof(A) + 4 * rows bytes. No shared
// memory; registers (sm_90): f32 32, f64 32.
#include "kernels/base/rehearsal.h"
#include "kernels/loss_select.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/cuda/loss_select_rule.cuh"

namespace cohort::kernels {
namespace {

constexpr int kThreads = 256;

template <class A>
__device__ void write_weights(const LossSelectArgs& args) {
  const TeachingRule<A> rule(args.rule, args.kl, args.feature, args.masked_member,
                             static_cast<const A*>(args.ce), args.members);
  if (threadIdx.x == 0 && args.teacher != nullptr) *args.teacher = rule.teacher;
  for (int at = static_cast<int>(threadIdx.x); at < args.members * args.members; at += kThreads) {
    const int i = at / args.members;
    const int j = at % args.members;
    if (args.kl_weight != nullptr) static_cast<A*>(args.kl_weight)[at] = rule.kl_weight(i, j);
    if (args.feature_weight != nullptr) static_cast<A*>(args.feature_weight)[at] = rule.feature_weight(i, j);
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
  args.row_winner[b] =
      b < valid ? finite_argmin(args.members, [&](int k) { return losses[k * args.rows]; }) : -1;
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
