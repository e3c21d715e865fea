// One launch. Each of at most 256 blocks of four warps takes its rows in turn, a warp per row: the largest
// gated logit, the sums at temperature 1 and T together, then target and gradients in one more pass, the
// logits from L1 after the first time. A block adds its warps' values in their order, the block that finishes
// last the blocks'. Shared memory: 4 gates, 288 bytes (f64: 544). Bytes: the header's formula. Not timed
// on a GPU yet.
#include "kernels/base/error.h"
#include "kernels/base/loss_value.h"
#include "kernels/base/rehearsal.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cuda/cohort_loss_math.cuh"
#include "kernels/cuda/row_sums.cuh"
#include "kernels/gated_ensemble.h"

namespace cohort::kernels {
namespace {

constexpr int kMaxBlocks = 256;

// Zero between launches; a branch's launches follow each other.
__device__ unsigned finished[kMaxRowBranches];

template <class T>
struct GatedRow {
  using A = Accumulator<T>;
  const GatedEnsembleArgs& args;
  A* gate;  // of the warp's row, in shared memory
  int lane;
  A inv_t, inv_rows;

  __device__ int members() const { return args.shape.members; }
  __device__ A logit(int m, std::int64_t at) const {
    return to_float(static_cast<const T*>(args.logits[static_cast<std::size_t>(m)])[at]);
  }
  __device__ A mixed(std::int64_t at) const {
    A sum = 0;
    for (int m = 0; m < members(); ++m) sum += gate[m] * logit(m, at);
    return sum;
  }
  template <class F>
  __device__ void each(F&& f) const {
    for (std::int64_t c = lane; c < args.shape.classes; c += kWarp) f(c);
  }
  __device__ A* of_row(void* values, std::int64_t b) const { return static_cast<A*>(values) + b * members(); }

  __device__ void weigh(std::int64_t b) const {
    const A* scores = static_cast<const A*>(args.scores) + b * members();
    if (lane == 0) {
      A max = -loss::infinity<A>();
      A total = 0;
      for (int m = 0; m < members(); ++m) max = scores[m] > max ? scores[m] : max;
      for (int m = 0; m < members(); ++m) total += gate[m] = loss::exp_of(scores[m] - max);
      for (int m = 0; m < members(); ++m) {
        gate[m] /= total;
        if (args.gate != nullptr) of_row(args.gate, b)[m] = gate[m];
      }
    }
    __syncwarp();
  }

  __device__ void store(int m, std::int64_t at, A g) const {
    T* const out = static_cast<T*>(args.grad_logits[static_cast<std::size_t>(m)]);
    if (out == nullptr) return;
    const bool add = args.grad_mode[static_cast<std::size_t>(m)] == GradMode::kAccumulate;
    out[at] = from_float<T>(add ? to_float(out[at]) + g : g);
  }

  __device__ double run(std::int64_t b) const {
    weigh(b);
    const std::int64_t row = b * args.shape.classes;
    A max = -loss::infinity<A>();
    each([&](std::int64_t c) { max = MaxOp::apply(max, mixed(row + c)); });
    max = warp_max(max);
    A sum = 0;
    A soft_sum = 0;
    each([&](std::int64_t c) {
      const A x = mixed(row + c) - max;
      sum += loss::exp_of(loss::clamp_low(x));
      soft_sum += loss::exp_of(loss::clamp_low(x * inv_t));
    });
    sum = warp_sum(sum);
    soft_sum = warp_sum(soft_sum);
    const std::int64_t label = args.labels[b];
    const bool known = label >= 0 && label < args.shape.classes;
    A dot[kMaxMembers] = {};
    A* const target = static_cast<A*>(args.target);
    each([&](std::int64_t c) {
      const A x = mixed(row + c) - max;
      if (target != nullptr) target[row + c] = loss::exp_of(loss::clamp_low(x * inv_t)) / soft_sum;
      A d = loss::exp_of(loss::clamp_low(x)) / sum - (c == label ? A{1} : A{0});
      if (!known) d = loss::not_a_number<A>();
#pragma unroll
      for (int m = 0; m < kMaxMembers; ++m) {
        if (m >= members()) break;
        dot[m] += d * logit(m, row + c);
        store(m, row + c, inv_rows * gate[m] * d);
      }
    });
    gate_gradients(b, dot);
    if (!known) return loss::not_a_number<double>();
    return static_cast<double>(loss::log_of(sum) - loss::clamp_low(mixed(row + label) - max));
  }

  __device__ void gate_gradients(std::int64_t b, A (&dot)[kMaxMembers]) const {
    A mean = 0;
#pragma unroll
    for (int m = 0; m < kMaxMembers; ++m) {
      if (m >= members()) break;
      dot[m] = inv_rows * warp_sum(dot[m]);
      mean += gate[m] * dot[m];
    }
    if (lane != 0) return;
#pragma unroll
    for (int m = 0; m < kMaxMembers; ++m) {
      if (m >= members()) break;
      if (args.grad_gate != nullptr) of_row(args.grad_gate, b)[m] = dot[m];
      if (args.grad_scores == nullptr) continue;
      A& out = of_row(args.grad_scores, b)[m];
      const A g = gate[m] * (dot[m] - mean);
      out = args.scores_mode == GradMode::kOverwrite ? g : out + g;
    }
  }

  __device__ void skip(std::int64_t b) const {
    const std::int64_t row = b * args.shape.classes;
    each([&](std::int64_t c) {
      if (args.target != nullptr) static_cast<A*>(args.target)[row + c] = 0;
      for (int m = 0; m < members(); ++m)
        if (args.grad_mode[static_cast<std::size_t>(m)] == GradMode::kOverwrite) store(m, row + c, 0);
    });
    if (lane >= members()) return;
    if (args.gate != nullptr) of_row(args.gate, b)[lane] = 0;
    if (args.grad_gate != nullptr) of_row(args.grad_gate, b)[lane] = 0;
    if (args.grad_scores != nullptr && args.scores_mode == GradMode::kOverwrite)
      of_row(args.grad_scores, b)[lane] = 0;
  }
};

template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarp, 4)
    gated_kernel(const __grid_constant__ GatedEnsembleArgs args, double* partial, int branch) {
  using A = Accumulator<T>;
  SIMT_SHARED(A, gates, [kRowWarps][kMaxMembers]);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t rows = args.shape.rows;
  const std::int64_t valid = count_valid(args.valid_rows, rows);
  const double inv_rows = valid == 0 ? 0 : 1.0 / static_cast<double>(valid);
  const GatedRow<T> row{args, gates[warp], lane, static_cast<A>(1.0 / args.temperature),
                        static_cast<A>(inv_rows)};
  double sum = 0;
  for (std::int64_t b = first_row(); b < rows; b += row_stride()) {
    if (b < valid) {
      sum += row.run(b);
    } else {
      row.skip(b);
    }
    __syncwarp();  // the next row's gate takes the place of this one's
  }
  double total = 0;
  if (!sum_of_rows(sum, partial, &finished[branch], &total)) return;
  finish_loss<A>(valid == 0 ? total : total / static_cast<double>(valid), /*weight=*/nullptr, args.value,
                 args.loss);
}

}  // namespace

std::size_t gated_ensemble_workspace(CudaStream, const CohortLossShape& shape) {
  return row_sums_workspace(shape.rows, kMaxBlocks);
}

void gated_ensemble(CudaStream stream, const GatedEnsembleArgs& args, Workspace workspace) {
  validate(args);
  check(workspace.size() >= gated_ensemble_workspace(stream, args.shape),
        "gated_ensemble: workspace too small");
  const Rehearsed rehearsed(stream, "gated_ensemble", traffic(args));
  dispatch_float(args.shape.dtype, [&]<class T>(std::type_identity<T>) {
    simt::launch(gated_kernel<T>, row_sums_config(stream, args.shape.rows, kMaxBlocks), args,
                 reinterpret_cast<double*>(workspace.data()), stream.branch);
  });
}

}  // namespace cohort::kernels
