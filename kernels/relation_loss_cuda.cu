// Mapping: a warp per row, four to a block; lanes stride over the columns, sums by shuffles in a fixed order.
// A row of both matrices is read three times, out of L1 from the second time on. A block adds its warps' sums
// in their order, the block that finishes last the blocks'. Shared memory: 32 bytes.
// Bytes: kernels/relation_loss.h.
#include <cmath>

#include "kernels/base/loss_value.h"
#include "kernels/base/rehearsal.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cuda/row_sums.cuh"
#include "kernels/cuda/simt.cuh"
#include "kernels/relation_loss.h"

namespace cohort::kernels {
namespace {

// Zero between launches; a branch's launches follow each other.
__device__ unsigned finished[kMaxRowBranches];

template <class A>
__device__ A inverse_length(const A* row, std::int64_t n, int lane) {
  A squares = 0;
  for (std::int64_t j = lane; j < n; j += kWarp) squares += row[j] * row[j];
  const A length = std::sqrt(warp_sum(squares));
  return length < static_cast<A>(kShortestRow) ? A{0} : A{1} / length;
}

template <class A>
__device__ double run_row(const RelationLossArgs& args, std::int64_t i, std::int64_t n, A weight, int lane) {
  const A* s = static_cast<const A*>(args.student) + i * args.rows;
  const A* t = static_cast<const A*>(args.teacher) + i * args.rows;
  const A inv_s = inverse_length(s, n, lane), inv_t = inverse_length(t, n, lane);
  A sum = 0, along = 0;
  for (std::int64_t j = lane; j < n; j += kWarp) {
    const A h = s[j] * inv_s, d = h - t[j] * inv_t;
    sum += d * d;
    along += h * d;
  }
  sum = warp_sum(sum);
  along = warp_sum(along);
  if (args.grad_student == nullptr) return static_cast<double>(sum);
  A* grad = static_cast<A*>(args.grad_student) + i * args.rows;
  const A k = A{2} * weight * inv_s;
  for (std::int64_t j = lane; j < args.rows; j += kWarp) {
    const A h = s[j] * inv_s;
    grad[j] = j < n ? k * (h - t[j] * inv_t - h * along) : A{0};
  }
  return static_cast<double>(sum);
}

template <class A>
__global__ void __launch_bounds__(kRowWarps* kWarp)
    relation_kernel(const __grid_constant__ RelationLossArgs args, double* partial, int branch) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t n = count_valid(args.valid_rows, args.rows);
  const double scale = n == 0 ? 0 : 1.0 / (static_cast<double>(n) * static_cast<double>(n));
  const A weight = static_cast<A>(static_cast<double>(*static_cast<const A*>(args.weight)) * scale);
  double sum = 0;
  for (std::int64_t i = first_row(); i < args.rows; i += row_stride()) {
    if (i < n) {
      sum += run_row<A>(args, i, n, weight, lane);
    } else if (args.grad_student != nullptr) {
      A* grad = static_cast<A*>(args.grad_student) + i * args.rows;
      for (std::int64_t j = lane; j < args.rows; j += kWarp) grad[j] = A{0};
    }
  }
  double total = 0;
  if (sum_of_rows(sum, partial, &finished[branch], &total))
    finish_loss<A>(total * scale, args.weight, args.value, args.loss);
}

}  // namespace

std::size_t relation_loss_workspace(CudaStream, std::int64_t rows) {
  return row_sums_workspace(rows);
}

void relation_loss(CudaStream stream, const RelationLossArgs& args, Workspace workspace) {
  validate(args);
  check(workspace.size() >= relation_loss_workspace(stream, args.rows), "relation_loss: workspace too small");
  const Rehearsed rehearsed(stream, "relation_loss", traffic(args));
  dispatch_accumulator(args.dtype, [&]<class A>(std::type_identity<A>) {
    simt::launch(relation_kernel<A>, row_sums_config(stream, args.rows), args,
                 reinterpret_cast<double*>(workspace.data()), stream.branch);
  });
}

}  // namespace cohort::kernels
