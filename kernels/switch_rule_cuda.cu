// One launch. Each of at most 256 blocks of four warps takes its rows in turn, a warp per row: the softmaxes'
// maxima and sums, then all distances in one more pass. A block adds its warps' sums in their order, the
// block that finishes last adds the blocks' and decides. Shared memory: 200 bytes. Bytes: the header's
// formula.
#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/base/switch_decision.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cuda/cohort_loss_math.cuh"
#include "kernels/switch_rule.h"

namespace cohort::kernels {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxBlocks = 256;
constexpr int kMaxBranches = 64;
constexpr int kValues = 2 * kMaxSwitchMembers;

// Zero between launches; a branch's launches follow each other.
__device__ unsigned finished[kMaxBranches];

// Adds one row's distances to `sums`; every lane of the row's warp gets the same.
template <class T>
__device__ void add_row(const SwitchRuleArgs& args, std::int64_t b, int lane, double (&sums)[kValues]) {
  using A = Accumulator<T>;
  constexpr int kM = kMaxSwitchMembers;
  const std::int64_t classes = args.shape.classes;
  const int members = args.shape.members;
  const A inv_tau = static_cast<A>(1.0 / args.tau);
  A max[kM];
  A inv_sum[kM];
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    if (m >= members) continue;
    const T* z = static_cast<const T*>(args.logits[static_cast<std::size_t>(m)]) + b * classes;
    max[m] = -loss::infinity<A>();
    for (std::int64_t c = lane; c < classes; c += kWarp) max[m] = MaxOp::apply(max[m], to_float(z[c]));
    max[m] = warp_max(max[m]);
    A sum = 0;
    for (std::int64_t c = lane; c < classes; c += kWarp)
      sum += loss::exp_of(loss::clamp_low((to_float(z[c]) - max[m]) * inv_tau));
    inv_sum[m] = 1 / warp_sum(sum);
  }
  const std::int64_t label = args.labels[b];
  const bool labelled = label >= 0 && label < classes;
  double own[kValues] = {};
  for (std::int64_t c = lane; c < classes; c += kWarp) {
    double p[kM] = {};
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      if (m >= members) continue;
      const A z = to_float(static_cast<const T*>(args.logits[static_cast<std::size_t>(m)])[b * classes + c]);
      p[m] = static_cast<double>(loss::exp_of(loss::clamp_low((z - max[m]) * inv_tau)) * inv_sum[m]);
      own[m] += c == label ? 1 - p[m] : p[m];
#pragma unroll
      for (int i = 0; i < m; ++i) own[kM + i + m - 1] += p[m] < p[i] ? p[i] - p[m] : p[m] - p[i];
    }
  }
#pragma unroll
  for (int v = 0; v < kValues; ++v) sums[v] += warp_sum(own[v]);
  if (!labelled) {
#pragma unroll
    for (int m = 0; m < kM; ++m) sums[m] = loss::not_a_number<double>();
  }
}

template <class T>
__global__ void __launch_bounds__(kWarps* kWarp)
    switch_kernel(const __grid_constant__ SwitchRuleArgs args, double* partial, int branch) {
  SIMT_SHARED(double, of_warp, [kWarps][kValues]);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp;
  const int lane = thread % kWarp;
  const std::int64_t valid = count_valid(args.valid_rows, args.shape.rows);
  double sums[kValues] = {};
  const std::int64_t stride = std::int64_t{gridDim.x} * kWarps;
  for (std::int64_t b = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp; b < valid; b += stride)
    add_row<T>(args, b, lane, sums);
  if (lane == 0) {
#pragma unroll
    for (int v = 0; v < kValues; ++v) of_warp[warp][v] = sums[v];
  }
  __syncthreads();
  if (thread < kValues) {
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += of_warp[w][thread];
    partial[static_cast<unsigned>(thread) * gridDim.x + blockIdx.x] = sum;
  }
  if (!last_block(&finished[branch], gridDim.x)) return;
  if (thread < kValues) {
    double sum = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) sum += partial[static_cast<unsigned>(thread) * gridDim.x + b];
    of_warp[0][thread] = valid == 0 ? 0 : sum / static_cast<double>(valid);
  }
  __syncthreads();
  if (thread != 0) return;
  SwitchDistances mean{};
  for (int i = 0; i < kMaxSwitchMembers; ++i) {
    mean.label[i] = of_warp[0][i];
    mean.pair[i] = of_warp[0][kMaxSwitchMembers + i];
  }
  decide<Accumulator<T>>(args, mean);
}

std::int64_t blocks_of(const CohortLossShape& shape) {
  return std::clamp<std::int64_t>((shape.rows + kWarps - 1) / kWarps, 1, kMaxBlocks);
}

}  // namespace

std::size_t switch_rule_workspace(CudaStream, const CohortLossShape& shape) {
  return static_cast<std::size_t>(blocks_of(shape)) * kValues * sizeof(double);
}

void switch_rule(CudaStream stream, const SwitchRuleArgs& args, Workspace workspace) {
  validate(args);
  check(workspace.size() >= switch_rule_workspace(stream, args.shape), "switch_rule: workspace too small");
  check(stream.branch >= 0 && stream.branch < kMaxBranches, "switch_rule: no such branch");
  const Rehearsed rehearsed(stream, "switch_rule", traffic(args));
  dispatch_float(args.shape.dtype, [&]<class T>(std::type_identity<T>) {
    simt::launch(
        switch_kernel<T>,
        {.grid = static_cast<unsigned>(blocks_of(args.shape)), .block = kWarps * kWarp, .stream = stream},
        args, reinterpret_cast<double*>(workspace.data()), stream.branch);
  });
}

}  // namespace cohort::kernels
