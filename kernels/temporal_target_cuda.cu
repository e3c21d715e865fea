// Mapping: a warp per row, four to a block; lanes stride over the classes, a lane reads and writes the same
// classes throughout, so the table needs no barrier between what it said and what it will say. Shared memory:
// none. Bytes: the header's formula. Not timed on a GPU yet.
#include "kernels/base/rehearsal.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cuda/cohort_loss_math.cuh"
#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/vec.cuh"
#include "kernels/temporal_target.h"

namespace cohort::kernels {
namespace {

constexpr int kWarps = 4;

// to = share + factor softmax(z), share what stands there or 0; false, and nothing is written, where one of
// them is not finite. All lanes of the warp together.
template <class T, class A = Accumulator<T>>
__device__ bool add_softmax(const T* z, std::int64_t classes, int lane, A factor, bool keep, A* to) {
  A max = -loss::infinity<A>();
  int sick = 0;
  for (std::int64_t c = lane; c < classes; c += kWarp) {
    const A v = to_float(z[c]);
    sick |= loss::is_finite(v) ? 0 : 1;
    max = v > max ? v : max;
  }
  if (warp_sum(sick) != 0) return false;
  max = warp_max(max);
  A sum = 0;
  for (std::int64_t c = lane; c < classes; c += kWarp) sum += loss::exp_of(to_float(z[c]) - max);
  sum = warp_sum(sum);
  for (std::int64_t c = lane; c < classes; c += kWarp)
    to[c] = (keep ? to[c] : A{0}) + factor * (loss::exp_of(to_float(z[c]) - max) / sum);
  return true;
}

template <class T>
__global__ void __launch_bounds__(kWarps* kWarp)
    temporal_target_kernel(const __grid_constant__ TemporalTargetArgs args) {
  using A = Accumulator<T>;
  const std::int64_t b = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (b >= args.rows) return;  // whole warps
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t classes = args.classes;
  A* const target = static_cast<A*>(args.target) + b * classes;
  if (b >= count_valid(args.valid_rows, args.rows)) {
    for (std::int64_t c = lane; c < classes; c += kWarp) target[c] = 0;
    return;
  }
  const std::int64_t index = args.table == nullptr ? -1 : args.indices[b], label = args.labels[b];
  A* const row = index >= 0 && index < args.samples ? static_cast<A*>(args.table) + index * classes : nullptr;
  int mine = 0;
  if (row != nullptr) {
    for (std::int64_t c = lane; c < classes; c += kWarp) mine |= row[c] != A{0} ? 1 : 0;
  }
  const bool known = warp_sum(mine) != 0, labelled = label >= 0 && label < classes;
  const A delta = known || args.former != nullptr ? *static_cast<const A*>(args.delta) : A{0};
  for (std::int64_t c = lane; c < classes; c += kWarp) {
    const A before = known ? delta * row[c] : A{0};
    target[c] = labelled ? before + (c == label ? A{1} - delta : A{0}) : loss::not_a_number<A>();
  }
  // One call for both, in which registers are kept for one: the answers are added, or take the row's place.
  const bool asked = args.former != nullptr && delta != A{0};
  if (!asked && row == nullptr) return;
  const T* const z = static_cast<const T*>(asked ? args.former : args.logits) + b * classes;
  const bool healthy = add_softmax(z, classes, lane, asked ? delta : A{1}, asked, asked ? target : row);
  if (healthy || !asked) return;
  for (std::int64_t c = lane; c < classes; c += kWarp) target[c] = loss::not_a_number<A>();
}

}  // namespace

void temporal_target(CudaStream stream, const TemporalTargetArgs& args) {
  validate(args);
  const Rehearsed rehearsed(stream, "temporal_target", traffic(args));
  const auto blocks = static_cast<unsigned>((args.rows + kWarps - 1) / kWarps);
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    simt::launch(temporal_target_kernel<T>, {.grid = blocks, .block = kWarps * kWarp, .stream = stream},
                 args);
  });
}

}  // namespace cohort::kernels
