// One launch, a warp per row, four rows in a block. The row is read again for its maximum, its sum and its
// target, from L1 after the first time: there is nothing to keep but two numbers per member, so any number
// of classes will do. kProbabilities keeps those of all members in shared memory (512 bytes; f64: 1 KiB).
// Bytes: the header's formula.
#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cuda/cohort_loss_math.cuh"
#include "kernels/weighted_target.h"

namespace cohort::kernels {
namespace {

constexpr int kRowsInBlock = 4;

// sum_i w_i values_i, by the warp of a row.
template <class T>
struct MixedRow {
  using A = Accumulator<T>;

  const WeightedTargetArgs& args;
  const A* w;
  std::int64_t row;
  int lane;

  __device__ A logit(int m, std::int64_t c) const {
    return to_float(
        static_cast<const T*>(args.logits[static_cast<std::size_t>(m)])[row * args.shape.classes + c]);
  }
  __device__ A mixed(std::int64_t c) const {
    A sum = 0;
    for (int m = 0; m < args.shape.members; ++m) sum += w[m] * logit(m, c);
    return sum;
  }

  // f(c) for the lane's classes.
  template <class F>
  __device__ void each(F&& f) const {
    for (std::int64_t c = lane; c < args.shape.classes; c += kWarp) f(c);
  }

  // exp((z - max) / T) over all classes: its scale and largest logit.
  template <class Z>
  __device__ void soft(Z&& z, A inv_t, A& max, A& inv_sum) const {
    A largest = -loss::infinity<A>();
    each([&](std::int64_t c) { largest = MaxOp::apply(largest, z(c)); });
    largest = warp_max(largest);
    A sum = 0;
    each([&](std::int64_t c) { sum += loss::exp_of(loss::clamp_low((z(c) - largest) * inv_t)); });
    max = largest;
    inv_sum = 1 / warp_sum(sum);
  }
};

template <class A>
struct SoftOf {
  A max, inv_sum;
};

template <class T>
__device__ void mix_logits(const MixedRow<T>& r, Accumulator<T> inv_t, Accumulator<T>* out) {
  using A = Accumulator<T>;
  const auto mixed = [&](std::int64_t c) { return r.mixed(c); };
  A max = 0;
  A inv_sum = 0;
  r.soft(mixed, inv_t, max, inv_sum);
  r.each([&](std::int64_t c) { out[c] = loss::exp_of(loss::clamp_low((mixed(c) - max) * inv_t)) * inv_sum; });
}

template <class T>
__device__ void mix_probabilities(const MixedRow<T>& r, Accumulator<T> inv_t, SoftOf<Accumulator<T>>* soft,
                                  Accumulator<T>* out) {
  using A = Accumulator<T>;
  const int members = r.args.shape.members;
  for (int m = 0; m < members; ++m) {
    SoftOf<A> s{};
    r.soft([&](std::int64_t c) { return r.logit(m, c); }, inv_t, s.max, s.inv_sum);
    if (r.lane == 0) soft[m] = s;
  }
  __syncwarp();
  const auto mixed = [&](std::int64_t c) {
    A sum = 0;
    for (int m = 0; m < members; ++m) {
      sum += r.w[m] * loss::exp_of(loss::clamp_low((r.logit(m, c) - soft[m].max) * inv_t)) * soft[m].inv_sum;
    }
    return sum < 0 ? A{0} : sum;
  };
  A total = 0;
  r.each([&](std::int64_t c) { total += mixed(c); });
  total = warp_sum(total);
  r.each([&](std::int64_t c) { out[c] = mixed(c) / total; });
}

template <class T>
__global__ void __launch_bounds__(kRowsInBlock* kWarp)
    target_kernel(const __grid_constant__ WeightedTargetArgs args) {
  using A = Accumulator<T>;
  SIMT_SHARED(SoftOf<A>, soft, [kRowsInBlock][kMaxMembers]);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kRowsInBlock + warp;
  if (row >= args.shape.rows) return;
  const std::int64_t valid = count_valid(args.valid_rows, args.shape.rows);
  const A* w = static_cast<const A*>(args.weights) + (args.per_row ? row * args.shape.members : 0);
  A* out = static_cast<A*>(args.target) + row * args.shape.classes;
  const MixedRow<T> r{args, w, row, lane};
  const A inv_t = static_cast<A>(1.0 / args.temperature);
  if (row >= valid) {
    r.each([&](std::int64_t c) { out[c] = 0; });
  } else if (args.rule == MixRule::kLogits) {
    mix_logits(r, inv_t, out);
  } else {
    mix_probabilities(r, inv_t, soft[warp], out);
  }
}

}  // namespace

std::size_t weighted_target_workspace(CudaStream, const CohortLossShape&) {
  return 0;
}

void weighted_target(CudaStream stream, const WeightedTargetArgs& args, Workspace) {
  const CohortLossShape& s = args.shape;
  check(s.members >= 1 && s.members <= kMaxMembers, "weighted_target: members must be in [1, 16]");
  check(s.rows >= 0 && s.classes >= 1,
        "weighted_target: rows must not be negative, classes must be positive");
  check(args.temperature > 0, "weighted_target: temperature must be positive");
  check(args.weights != nullptr && args.target != nullptr, "weighted_target: no weights or no target");
  if (s.rows == 0) return;
  const auto blocks = static_cast<unsigned>((s.rows + kRowsInBlock - 1) / kRowsInBlock);
  const Rehearsed rehearsed(stream, "weighted_target", traffic(args));
  dispatch_float(s.dtype, [&]<class T>(std::type_identity<T>) {
    simt::launch(target_kernel<T>, {.grid = blocks, .block = kRowsInBlock * kWarp, .stream = stream}, args);
  });
}

}  // namespace cohort::kernels
