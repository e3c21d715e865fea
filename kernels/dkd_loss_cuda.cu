// One launch. Each of at most 1,024 blocks of four warps takes its rows in turn, a warp per row: the largest
// of the other classes, their sum, then values and gradient in one more pass. A block adds its warps' sums in
// their order, the block that finishes last the blocks'. Shared memory: 64 bytes. Bytes: the header's
// formula.
#include <algorithm>

#include "kernels/base/dkd_row.h"
#include "kernels/base/rehearsal.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cuda/cohort_loss_math.cuh"
#include "kernels/dkd_loss.h"

namespace cohort::kernels {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxBlocks = 1024;
constexpr int kMaxBranches = 64;

// Zero between launches; a branch's launches follow each other.
__device__ unsigned finished[kMaxBranches];

struct Sums {
  double target, others;
};

template <class T>
struct DkdRow {
  using A = Accumulator<T>;
  const DkdLossArgs& args;
  int lane;
  A inv_t, alpha, beta;

  __device__ DkdSide<A> side(const T* z, std::int64_t label) const {
    A max = -loss::infinity<A>();
    for (std::int64_t c = lane; c < args.classes; c += kWarp) {
      if (c != label) max = MaxOp::apply(max, to_float(z[c]) * inv_t);
    }
    max = warp_max(max);
    A sum = 0;
    for (std::int64_t c = lane; c < args.classes; c += kWarp) {
      if (c != label) sum += loss::exp_of(to_float(z[c]) * inv_t - max);
    }
    return DkdSide<A>::make(to_float(z[label]) * inv_t, max, warp_sum(sum));
  }

  __device__ void store(T* grad, std::int64_t c, A g) const {
    if (grad == nullptr) return;
    grad[c] = from_float<T>(args.grad_mode == GradMode::kAccumulate ? to_float(grad[c]) + g : g);
  }

  __device__ void run(std::int64_t b, Sums& sums) const {
    const T* s = static_cast<const T*>(args.student) + b * args.classes;
    const T* t = static_cast<const T*>(args.teacher) + b * args.classes;
    T* grad = args.grad_student == nullptr ? nullptr : static_cast<T*>(args.grad_student) + b * args.classes;
    const std::int64_t label = args.labels[b];
    if (label < 0 || label >= args.classes) {
      sums.target = sums.others = loss::not_a_number<double>();
      for (std::int64_t c = lane; c < args.classes; c += kWarp) store(grad, c, loss::not_a_number<A>());
      return;
    }
    const DkdSide<A> student = side(s, label);
    const DkdSide<A> teacher = side(t, label);
    const A pull = alpha * (student.own - teacher.own);
    A others = 0;
    for (std::int64_t c = lane; c < args.classes; c += kWarp) {
      A g = pull;
      if (c != label) {
        const A log_s = student.log_q(to_float(s[c]) * inv_t);
        const A log_t = teacher.log_q(to_float(t[c]) * inv_t);
        const A q_s = loss::exp_of(log_s);
        const A q_t = loss::exp_of(log_t);
        others += q_t * (log_t - log_s);
        g = beta * (q_s - q_t) - pull * q_s;
      }
      store(grad, c, g);
    }
    sums.target += static_cast<double>(dkd_target_term(teacher, student));
    sums.others += static_cast<double>(warp_sum(others));
  }

  __device__ void skip(std::int64_t b) const {
    if (args.grad_student == nullptr || args.grad_mode == GradMode::kAccumulate) return;
    T* grad = static_cast<T*>(args.grad_student) + b * args.classes;
    for (std::int64_t c = lane; c < args.classes; c += kWarp) grad[c] = from_float<T>(A{0});
  }
};

template <class T>
__global__ void __launch_bounds__(kWarps* kWarp, 4)
    dkd_kernel(const __grid_constant__ DkdLossArgs args, Sums* partial, int branch) {
  using A = Accumulator<T>;
  SIMT_SHARED(Sums, of_warp, [kWarps]);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t valid = count_valid(args.valid_rows, args.rows);
  const double k = valid == 0 ? 0 : dkd_factor(args) * args.temperature / static_cast<double>(valid);
  const DkdRow<T> row{args, lane, static_cast<A>(1.0 / args.temperature), static_cast<A>(k * args.alpha),
                      static_cast<A>(k * args.beta)};
  Sums sums{0, 0};
  const std::int64_t stride = std::int64_t{gridDim.x} * kWarps;
  for (std::int64_t b = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp; b < args.rows; b += stride) {
    if (b < valid) {
      row.run(b, sums);
    } else {
      row.skip(b);
    }
  }
  if (lane == 0) of_warp[warp] = sums;
  __syncthreads();
  if (threadIdx.x == 0) {
    Sums total{0, 0};
    for (int w = 0; w < kWarps; ++w) {
      total.target += of_warp[w].target;
      total.others += of_warp[w].others;
    }
    partial[blockIdx.x] = total;
  }
  if (!last_block(&finished[branch], gridDim.x) || threadIdx.x != 0) return;
  Sums total{0, 0};
  for (unsigned b = 0; b < gridDim.x; ++b) {
    total.target += partial[b].target;
    total.others += partial[b].others;
  }
  dkd_finish<A>(args, total.target, total.others, valid);
}

std::int64_t blocks_of(std::int64_t rows) {
  return std::clamp<std::int64_t>((rows + kWarps - 1) / kWarps, 1, kMaxBlocks);
}

}  // namespace

std::size_t dkd_loss_workspace(CudaStream, std::int64_t rows) {
  return static_cast<std::size_t>(blocks_of(rows)) * sizeof(Sums);
}

void dkd_loss(CudaStream stream, const DkdLossArgs& args, Workspace workspace) {
  validate(args);
  check(workspace.size() >= dkd_loss_workspace(stream, args.rows), "dkd_loss: workspace too small");
  check(stream.branch >= 0 && stream.branch < kMaxBranches, "dkd_loss: no such branch");
  const Rehearsed rehearsed(stream, "dkd_loss", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    simt::launch(
        dkd_kernel<T>,
        {.grid = static_cast<unsigned>(blocks_of(args.rows)), .block = kWarps * kWarp, .stream = stream},
        args, reinterpret_cast<Sums*>(workspace.data()), stream.branch);
  });
}

}  // namespace cohort::kernels
