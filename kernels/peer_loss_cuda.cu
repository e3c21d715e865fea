// One launch. Each of at most 1,024 blocks of four warps takes its rows in turn, a warp per row, member by
// member: the largest logits, both sums, then value and gradient in one more pass, the logits from L1 after
// the first time. A block adds its warps' values in their order, the block that finishes last the blocks', a
// thread per member. Shared memory: 512 bytes. Bytes: the header's formula. Not timed on a GPU yet.
#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cuda/cohort_loss_math.cuh"
#include "kernels/peer_loss.h"

namespace cohort::kernels {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxBlocks = 1024;
constexpr int kMaxBranches = 64;

// Zero between launches; a branch's launches follow each other.
__device__ unsigned finished[kMaxBranches];

__device__ inline double scale_of(const PeerLossArgs& args) {
  return args.t_squared ? args.temperature * args.temperature : 1.0;
}

// Member i's row b.
template <class T>
struct PeerRow {
  using A = Accumulator<T>;
  const PeerLossArgs& args;
  int i;
  std::int64_t row;
  int lane;
  A inv_t, inv_peers;

  __device__ A logit(int m, std::int64_t c) const {
    return to_float(static_cast<const T*>(args.logits[static_cast<std::size_t>(m)])[row + c]);
  }
  __device__ A mean(std::int64_t c) const {
    A sum = 0;
    for (int j = 0; j < args.shape.members; ++j) sum += j == i ? A{0} : logit(j, c);
    return sum * inv_peers;
  }
  template <class F>
  __device__ void each(F&& f) const {
    for (std::int64_t c = lane; c < args.shape.classes; c += kWarp) f(c);
  }

  __device__ double run(A k) const {
    A max = -loss::infinity<A>();
    A max_mean = max;
    each([&](std::int64_t c) {
      max = MaxOp::apply(max, logit(i, c));
      max_mean = MaxOp::apply(max_mean, mean(c));
    });
    max = warp_max(max);
    max_mean = warp_max(max_mean);
    A sum = 0;
    A sum_mean = 0;
    each([&](std::int64_t c) {
      sum += loss::exp_of(loss::clamp_low((logit(i, c) - max) * inv_t));
      sum_mean += loss::exp_of(loss::clamp_low((mean(c) - max_mean) * inv_t));
    });
    const A log_sum = loss::log_of(warp_sum(sum));
    const A log_sum_mean = loss::log_of(warp_sum(sum_mean));
    T* const grad = static_cast<T*>(args.grad_logits[static_cast<std::size_t>(i)]);
    const bool add = args.grad_mode[static_cast<std::size_t>(i)] == GradMode::kAccumulate;
    A value = 0;
    each([&](std::int64_t c) {
      const A log_s = loss::clamp_low((logit(i, c) - max) * inv_t) - log_sum;
      const A log_q = loss::clamp_low((mean(c) - max_mean) * inv_t) - log_sum_mean;
      const A q = loss::exp_of(log_q);
      value += q * ((args.form == PeerForm::kKl ? log_q : A{0}) - log_s);
      if (grad == nullptr) return;
      const A g = k * (loss::exp_of(log_s) - q);
      grad[row + c] = from_float<T>(add ? to_float(grad[row + c]) + g : g);
    });
    return static_cast<double>(warp_sum(value));
  }

  __device__ void skip() const {
    T* const grad = static_cast<T*>(args.grad_logits[static_cast<std::size_t>(i)]);
    if (grad == nullptr || args.grad_mode[static_cast<std::size_t>(i)] == GradMode::kAccumulate) return;
    each([&](std::int64_t c) { grad[row + c] = from_float<T>(A{0}); });
  }
};

// Left to itself ptxas spills registers for more blocks per SM than these.
constexpr int kBlocksPerSm = 4;

template <class T>
__global__ void __launch_bounds__(kWarps* kWarp, kBlocksPerSm)
    peer_kernel(const __grid_constant__ PeerLossArgs args, double* partial, int branch) {
  using A = Accumulator<T>;
  SIMT_SHARED(double, of_warp, [kWarps][kMaxMembers]);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int members = args.shape.members;
  const std::int64_t rows = args.shape.rows;
  const std::int64_t valid = count_valid(args.valid_rows, rows);
  const double per_row = valid == 0 ? 0 : scale_of(args) / static_cast<double>(valid);
  const double grad_scale = per_row / args.temperature;
  const A* const weights = static_cast<const A*>(args.weight);
  const auto inv_t = static_cast<A>(1.0 / args.temperature);
  const A inv_peers = A{1} / static_cast<A>(members - 1);
  if (lane < kMaxMembers) of_warp[warp][lane] = 0;
  __syncwarp();
  const std::int64_t stride = std::int64_t{gridDim.x} * kWarps;
  for (std::int64_t b = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp; b < rows; b += stride) {
    for (int i = 0; i < members; ++i) {
      const PeerRow<T> row{args, i, b * args.shape.classes, lane, inv_t, inv_peers};
      if (b >= valid || weights[i] == 0) {
        row.skip();
        continue;
      }
      const double value = row.run(static_cast<A>(grad_scale * static_cast<double>(weights[i])));
      if (lane == 0) of_warp[warp][i] += value;
    }
  }
  __syncthreads();
  const int i = static_cast<int>(threadIdx.x);
  if (i < members) {
    double total = 0;
    for (int w = 0; w < kWarps; ++w) total += of_warp[w][i];
    partial[static_cast<std::int64_t>(blockIdx.x) * members + i] = total;
  }
  if (!last_block(&finished[branch], gridDim.x) || i >= members) return;
  double value = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) value += partial[static_cast<std::int64_t>(b) * members + i];
  value *= per_row;
  const auto add = [&](void* to) {
    if (to == nullptr || weights[i] == 0) return;
    A& sum = static_cast<A*>(to)[i];
    sum = static_cast<A>(static_cast<double>(sum) + static_cast<double>(weights[i]) * value);
  };
  add(args.loss);
  add(args.kl);
  if (args.value != nullptr) static_cast<A*>(args.value)[i] = static_cast<A>(value);
}

std::int64_t blocks_of(std::int64_t rows) {
  return std::clamp<std::int64_t>((rows + kWarps - 1) / kWarps, 1, kMaxBlocks);
}

}  // namespace

std::size_t peer_loss_workspace(CudaStream, const CohortLossShape& shape) {
  return static_cast<std::size_t>(blocks_of(shape.rows) * shape.members) * sizeof(double);
}

void peer_loss(CudaStream stream, const PeerLossArgs& args, Workspace workspace) {
  validate(args);
  check(workspace.size() >= peer_loss_workspace(stream, args.shape), "peer_loss: workspace too small");
  check(stream.branch >= 0 && stream.branch < kMaxBranches, "peer_loss: no such branch");
  const Rehearsed rehearsed(stream, "peer_loss", traffic(args));
  dispatch_float(args.shape.dtype, [&]<class T>(std::type_identity<T>) {
    simt::launch(peer_kernel<T>,
                 {.grid = static_cast<unsigned>(blocks_of(args.shape.rows)),
                  .block = kWarps * kWarp,
                  .stream = stream},
                 args, reinterpret_cast<double*>(workspace.data()), stream.branch);
  });
}

}  // namespace cohort::kernels
