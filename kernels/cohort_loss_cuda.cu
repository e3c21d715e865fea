// All members' losses and gradients in one launch and one reading of their logits.
//
// A row belongs to a team of threads: a warp up to 256 classes (four rows in a block, and a fifth warp that
// prepares the weights), a block of 128 up to 2,048, a block of 512 (f64: 256) above. How a team works is in
// cuda/cohort_loss_row.cuh. Above 1,024 blocks a block takes several rows in turn. Each block sums what its
// rows add to the values, in double and in a fixed order; the block that finishes last adds the blocks up (a
// warp per value) and writes the values: no second launch.
//
// Bytes moved: the header's formula (logits once, gradients once) while a row fits into 96 KiB of shared
// memory, which it does up to 24,576 / members classes in f32 and twice that in bf16 (without softmaxes,
// which are then computed twice); beyond that every pass reads the row again, from L2, since a row is a few
// hundred KiB. Plus 8 (members^2 + 4 members) bytes per block. Shared memory: per team members * classes *
// size_of(dtype), and members * classes * sizeof(A) for softmaxes where somebody is taught (+ classes for a
// shared target); 1.4 KiB (f64: 2.5) for the weights, 2.4 KiB (4.6) with a decision. Registers (sm_80 and
// sm_90), no spills: f32 and bf16 92 to 108, f64 116 to 126, with a decision 80 to 102. Nothing here has been
// timed on a GPU yet.
//
// A decision between the losses and the gradients (competitive: who teaches) needs all rows before the first
// gradient. Where every row has a team of its own and all blocks are on the device at the same time (with
// 100 multiprocessors 1,200 rows of 100 classes, 400 of 1,000 with 4 members, 100 of any length), the launch
// is cooperative: every team measures its row, which then stays on chip (if it fits); a barrier of all
// blocks; every block adds the blocks' cross-entropies up in the order that the last block uses too, decides,
// and goes on. One launch instead of three, two passes over memory instead of three. Else the header's three
// steps: the logits are read twice.
#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cohort_loss.h"
#include "kernels/cuda/cohort_loss_row.cuh"
#include "kernels/cuda/grid_barrier.cuh"
#include "kernels/cuda/loss_select_rule.cuh"

namespace cohort::kernels {
namespace {

using loss::Layout;
using loss::Plan;
using loss::Row;

constexpr int kMaxBranches = 64;
constexpr std::int64_t kMaxBlocks = 1024;        // partial sums that the last block adds up
constexpr std::size_t kSharedLimit = 96 * 1024;  // of every device from sm_80 on

// Blocks of the launch in flight that have finished; one word per branch, whose launches follow each other. 0
// between launches.
__device__ unsigned finished[kMaxBranches];
// Of their barrier, where they wait for each other.
__device__ unsigned decided[kMaxBranches];

template <class A>
__device__ double weight_of(const void* weights, int i, double otherwise) {
  return weights == nullptr ? otherwise : static_cast<double>(static_cast<const A*>(weights)[i]);
}
template <class A>
__device__ double pair_weight(const CohortLossArgs& args, const void* weights, int i, int j) {
  return i == j ? 0 : weight_of<A>(weights, i * args.shape.members + j, 0);
}
template <class A>
__device__ double target_weight(const CohortLossArgs& args, int i) {
  return args.target_rule == TargetRule::kNone ? 0 : weight_of<A>(args.target_weight, i, 0);
}
__device__ inline double scale_of(const CohortLossArgs& args) {
  return args.t_squared ? args.temperature * args.temperature : 1.0;
}

__device__ inline double inverse(std::int64_t valid) {
  return valid == 0 ? 0.0 : 1.0 / static_cast<double>(valid);
}

// By one warp: lane i is student i. `weights`: W; `undecided`: it will only be known later, and may be
// anything.
template <class A>
__device__ void make_plan(const CohortLossArgs& args, const void* weights, bool undecided, std::int64_t valid,
                          Plan<A>& plan) {
  const int i = static_cast<int>(threadIdx.x) % kWarp;
  const int members = args.shape.members;
  const double inv_rows = inverse(valid);
  const double soft_grad = scale_of(args) / args.temperature * inv_rows;
  unsigned pair = 0;
  unsigned pull = 0;
  bool target = false;
  bool target_pull = false;
  if (i < members) {
    plan.ce_grad[i] = static_cast<A>(weight_of<A>(args.ce_weight, i, 1) * inv_rows);
#pragma unroll 4
    for (int j = 0; j < members; ++j) {
      const double w = pair_weight<A>(args, weights, i, j);
      plan.pair_grad[i * kMaxMembers + j] = static_cast<A>(w * soft_grad);
      pull |= (w != 0 ? 1U : 0U) << j;
      pair |= (i != j && (w != 0 || args.all_pairs) ? 1U : 0U) << j;
    }
    const double e = target_weight<A>(args, i);
    plan.target_grad[i] = static_cast<A>(e * soft_grad);
    target_pull = e != 0;
    target = args.target_rule != TargetRule::kNone && (e != 0 || args.all_pairs);
    plan.pull[i] = pull;
  }
  const unsigned targets = __ballot_sync(kFullMask, target);
  const unsigned target_pulls = __ballot_sync(kFullMask, target_pull);
  unsigned pairs = 0;
  for (int j = 0; j < members; ++j) {
    const unsigned taught = __ballot_sync(kFullMask, (pull >> j & 1) != 0);
    const unsigned students = __ballot_sync(kFullMask, (pair >> j & 1) != 0);
    if (i == j) plan.teach[j] = taught;
    if (i == j) plan.students[j] = students;
    pairs |= (students != 0 ? 1U : 0U) << j;
  }
  if (i == 0) {
    plan.target = targets;
    plan.target_pull = target_pulls;
    plan.pairs = undecided ? 1 : pairs;
    plan.inv_t = static_cast<A>(1.0 / args.temperature);
  }
}

template <class A>
__device__ void write(void* out, int i, double value) {
  if (out != nullptr) static_cast<A*>(out)[i] = static_cast<A>(value);
}

// put(v, the first values' sums over all blocks), in a fixed order: a warp per value.
template <class F>
__device__ void add_blocks(const double* partial, int num_values, F&& put) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int v = static_cast<int>(threadIdx.x) / kWarp; v < num_values; v += warps) {
    double sum = 0;
#pragma unroll 4
    for (unsigned b = static_cast<unsigned>(lane); b < gridDim.x; b += kWarp)
      sum += partial[v * gridDim.x + b];
    sum = warp_sum(sum);
    if (lane == 0) put(v, sum);
  }
}

// Adds the blocks' values up and writes what the call reports.
template <class A>
__device__ void finish(const CohortLossArgs& args, const void* weights, std::int64_t valid,
                       const double* partial, double* total) {
  const int members = args.shape.members;
  add_blocks(partial, loss::count_values(members), [&](int v, double sum) { total[v] = sum; });
  __syncthreads();
  const int i = static_cast<int>(threadIdx.x);
  if (i >= members) return;
  const double inv_rows = inverse(valid);
  const double mean_scale = scale_of(args) * inv_rows;
  const double ce = total[i] * inv_rows;
  double kl = 0;
  for (int j = 0; j < members; ++j) {
    const double w = pair_weight<A>(args, weights, i, j);
    double pair = 0;
    if (i != j && (w != 0 || args.all_pairs))
      pair = mean_scale * total[loss::value_pair(members, i * members + j)];
    if (w != 0) kl += w * pair;
    write<A>(args.kl_pair, i * members + j, pair);
  }
  const double e = target_weight<A>(args, i);
  double target = 0;
  if (e != 0 || args.all_pairs) target = mean_scale * total[loss::value_target(members, i)];
  if (e != 0) kl += e * target;
  const double ce_weight = weight_of<A>(args.ce_weight, i, 1);
  write<A>(args.target_kl, i, target);
  write<A>(args.ce, i, ce);
  write<A>(args.kl, i, kl);
  write<A>(args.loss, i, ce_weight == 0 ? kl : ce_weight * ce + kl);
  const auto count = [&](int v) { return static_cast<std::int32_t>(total[v]); };
  if (args.correct_top1 != nullptr) args.correct_top1[i] = count(loss::value_top1(members, i));
  if (args.correct_top5 != nullptr) args.correct_top5[i] = count(loss::value_top5(members, i));
}

// What a block knows of the decision.
template <class A>
struct Decided {
  A ce[kMaxMembers];
  A weights[kMaxMembers * kMaxMembers];  // W
};

// Waits for the cross-entropies of all blocks, and decides: every block for itself, with the same bits. The
// first one also writes the decision down.
template <class A>
__device__ void decide(const CohortLossArgs& args, std::int64_t valid, const double* partial, int branch,
                       Decided<A>& decision) {
  const CohortDecision& d = args.decision;
  const int members = args.shape.members;
  grid_barrier(&decided[branch]);
  const double inv_rows = inverse(valid);
  add_blocks(partial, members, [&](int m, double sum) { decision.ce[m] = static_cast<A>(sum * inv_rows); });
  __syncthreads();
  const TeachingRule<A> rule(d.rule, d.kl, d.feature, d.masked_member, decision.ce, members);
  const bool writes = blockIdx.x == 0;
  if (writes && threadIdx.x == 0 && d.teacher != nullptr) *d.teacher = rule.teacher;
  for (int at = static_cast<int>(threadIdx.x); at < members * members; at += static_cast<int>(blockDim.x)) {
    const int i = at / members;
    const int j = at % members;
    const A weight = rule.kl_weight(i, j);
    decision.weights[at] = weight;
    if (!writes) continue;
    static_cast<A*>(d.kl_weight)[at] = weight;
    if (d.feature_weight != nullptr) static_cast<A*>(d.feature_weight)[at] = rule.feature_weight(i, j);
  }
  __syncthreads();
}

// Adds the block's rows up, for the values [first, last).
__device__ inline void publish(const double* slots, int lanes, int num_values, int first, int last,
                               double* partial) {
  for (int v = first + static_cast<int>(threadIdx.x); v < last; v += static_cast<int>(blockDim.x)) {
    double sum = slots[v];
    for (int lane = 1; lane < lanes; ++lane) sum += slots[lane * num_values + v];
    partial[v * gridDim.x + blockIdx.x] = sum;
  }
}

// kDecides: cooperative, a row per team.
template <class T, int kTeam, bool kDecides>
__global__ void __launch_bounds__(kTeam == kWarp ? (loss::kRowsInBlock + 1) * kWarp : kTeam,
                                  kTeam > 128 || std::is_same_v<T, double> ? 1
                                  : kDecides                               ? 3
                                                                           : 4)
    loss_kernel(const __grid_constant__ CohortLossArgs args, const __grid_constant__ Layout layout,
                double* partial, int branch) {
  using A = Accumulator<T>;
  constexpr int kLanes = kTeam == kWarp ? loss::kRowsInBlock : 1;
  SIMT_SHARED(Plan<A>, plan, [1]);
  SIMT_SHARED_DYN(raw);
  double* const slots = reinterpret_cast<double*>(raw);  // [kLanes][num_values]
  const int thread = static_cast<int>(threadIdx.x);
  const int team = thread / kTeam;
  for (int v = thread; v < kLanes * layout.num_values; v += static_cast<int>(blockDim.x)) slots[v] = 0;
  const std::int64_t valid = count_valid(args.valid_rows, args.shape.rows);
  Row<T, kTeam> row(args, plan[0], layout,
                    raw + layout.first_team + static_cast<unsigned>(team) * layout.team);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * layout.iterations * kLanes;
  // The first row is on its way while a warp, one without a row where teams are warps, prepares the plan.
  const bool has_rows = team < layout.teams;
  const bool plans = kTeam == kWarp ? !has_rows : thread < kWarp;
  if (has_rows && first + team < args.shape.rows) row.load(first + team);
  if (plans) make_plan(args, args.kl_weight, kDecides, valid, plan[0]);
  __syncthreads();
  int published = 0;
  const void* weights = args.kl_weight;
  if constexpr (kDecides) {
    SIMT_SHARED(Decided<A>, decision, [1]);
    const std::int64_t b = first + team;
    double* const slot = slots + team * layout.num_values;
    if (has_rows && b < valid) row.measure(slot);
    __syncthreads();
    published = args.shape.members;
    publish(slots, kLanes, layout.num_values, 0, published, partial);
    decide<A>(args, valid, partial, branch, decision[0]);
    weights = decision[0].weights;
    if (plans) make_plan(args, weights, false, valid, plan[0]);
    __syncthreads();
    if (has_rows && b < args.shape.rows) b < valid ? row.teach_and_learn(slot) : row.skip();
  } else {
    for (int iteration = 0; has_rows && iteration < layout.iterations; ++iteration) {
      for (int lane = team; lane < kLanes; lane += layout.teams) {
        const std::int64_t b = first + iteration * kLanes + lane;
        if (b >= args.shape.rows) break;
        if (iteration != 0 || lane != team) row.load(b);
        if (b < valid) {
          row.measure(slots + lane * layout.num_values);
          row.teach_and_learn(slots + lane * layout.num_values);
        } else {
          row.skip();
        }
      }
    }
  }
  __syncthreads();
  publish(slots, kLanes, layout.num_values, published, layout.num_values, partial);
  if (last_block(&finished[branch], gridDim.x)) finish<A>(args, weights, valid, partial, slots);
}

// --- host ---

bool decides(const CohortLossArgs& args) {
  return args.decision.kl_weight != nullptr;
}
std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}
std::size_t round_up(std::size_t bytes) {
  return (bytes + 15) / 16 * 16;
}

// Threads of a row, and rows of a block: functions of the shape's rows, classes and dtype alone, because the
// order of sums follows from them.
int team_of(const CohortLossShape& shape) {
  if (shape.classes <= 256) return kWarp;
  return shape.classes <= 2048 ? 128 : shape.dtype == DType::f64 ? 256 : 512;  // f64: registers
}

struct Grid {
  int rows_in_block, iterations;
  std::int64_t blocks;
};

Grid grid_of(const CohortLossShape& shape) {
  Grid grid{};
  grid.rows_in_block = team_of(shape) == kWarp ? loss::kRowsInBlock : 1;
  grid.iterations =
      static_cast<int>(std::max<std::int64_t>(1, ceil_div(shape.rows, kMaxBlocks * grid.rows_in_block)));
  grid.blocks =
      std::max<std::int64_t>(1, ceil_div(shape.rows, std::int64_t{grid.rows_in_block} * grid.iterations));
  return grid;
}

// What does not fit into shared memory is computed or read again, softmaxes first.
template <class T>
Layout layout_of(const CohortLossArgs& args, std::size_t& shared) {
  using A = Accumulator<T>;
  const CohortLossShape& shape = args.shape;
  const Grid grid = grid_of(shape);
  const int team = team_of(shape);
  const auto members = static_cast<std::size_t>(shape.members);
  Layout layout;
  layout.iterations = grid.iterations;
  layout.num_values = loss::count_values(shape.members);
  const std::int64_t group = 16 / sizeof(T);
  layout.padded = static_cast<int>(ceil_div(shape.classes, group) * group);
  const auto partials =
      static_cast<std::size_t>(team / kWarp * loss::Partials<A, kWarp>::size(shape.members));
  const bool target = args.target_rule != TargetRule::kNone;
  layout.kept = args.kl_weight != nullptr || decides(args) || target || args.all_pairs;
  const auto place = [&](int teams, bool staged, bool kept) {
    layout.teams = teams;
    layout.staged = staged;
    layout.kept = kept;
    std::size_t at = round_up(members * sizeof(loss::Member<A>));
    const auto next = [&](unsigned& offset, std::size_t bytes) {
      offset = static_cast<unsigned>(at);
      at += round_up(bytes);
    };
    const auto padded = static_cast<std::size_t>(layout.padded);
    next(layout.partial, partials * sizeof(A));
    next(layout.kl, args.attached ? members * members * sizeof(A) : 0);
    next(layout.stage, staged ? members * padded * sizeof(T) : 0);
    next(layout.soft, kept ? (members + (target ? 1 : 0)) * padded * sizeof(A) : 0);
    layout.team = static_cast<unsigned>(at);
    layout.first_team = static_cast<unsigned>(
        round_up(static_cast<std::size_t>(grid.rows_in_block * layout.num_values) * sizeof(double)));
    shared = layout.first_team + static_cast<std::size_t>(teams) * at;
    return shared <= kSharedLimit;
  };
  const bool keep = layout.kept;
  for (int teams = grid.rows_in_block; teams >= 1; teams /= 2) {
    if (place(teams, true, keep)) return layout;
  }
  if (place(1, true, false)) return layout;
  place(1, false, false);
  return layout;
}

template <class T, int kTeam>
void launch(CudaStream stream, const CohortLossArgs& args, Workspace workspace) {
  std::size_t shared = 0;
  const Layout layout = layout_of<T>(args, shared);
  simt::LaunchConfig config{
      .grid = static_cast<unsigned>(grid_of(args.shape).blocks),
      .block = static_cast<unsigned>(kTeam * layout.teams + (kTeam == kWarp ? kWarp : 0)),
      .shared = shared,
      .stream = stream};
  auto* kernel = loss_kernel<T, kTeam, false>;
  if (decides(args)) {
    kernel = loss_kernel<T, kTeam, true>;
    const bool one_row_each = layout.iterations == 1 && layout.teams == grid_of(args.shape).rows_in_block;
    config.cooperative = one_row_each && config.grid.x <= simt::resident_blocks(kernel, config);
    if (!config.cooperative) return cohort_loss_in_steps(stream, args, workspace);
  }
  const Rehearsed rehearsed(stream, "cohort_loss", traffic(args));
  simt::launch(kernel, config, args, layout, reinterpret_cast<double*>(workspace.data()), stream.branch);
}

void validate(CudaStream stream, const CohortLossArgs& args, Workspace workspace) {
  const CohortLossShape& s = args.shape;
  check(s.members >= 1 && s.members <= kMaxMembers, "cohort_loss: members must be in [1, 16]");
  check(s.rows >= 0 && s.classes >= 1, "cohort_loss: rows must not be negative, classes must be positive");
  check(s.classes < (std::int64_t{1} << 24), "cohort_loss: too many classes");
  check(args.temperature > 0, "cohort_loss: temperature must be positive");
  check(args.labels != nullptr, "cohort_loss: no labels");
  check(args.mixed_member == nullptr || (args.mixed_labels != nullptr && args.mixed_weights != nullptr),
        "cohort_loss: mixed_member without mixed labels and weights");
  check(args.target_rule != TargetRule::kGiven || args.given_target != nullptr,
        "cohort_loss: no given target");
  check(args.target == nullptr || args.target_rule != TargetRule::kNone,
        "cohort_loss: no rule for the target");
  check(!decides(args) || (args.kl_weight == nullptr && args.ce != nullptr),
        "cohort_loss: a decision writes W itself, and needs ce");
  check(workspace.size() >= cohort_loss_workspace(stream, s), "cohort_loss: workspace too small");
  check(stream.branch >= 0 && stream.branch < kMaxBranches, "cohort_loss: no such branch");
}

}  // namespace

std::size_t cohort_loss_workspace(CudaStream, const CohortLossShape& shape) {
  return static_cast<std::size_t>(loss::count_values(shape.members) * grid_of(shape).blocks) * sizeof(double);
}

void cohort_loss(CudaStream stream, const CohortLossArgs& args, Workspace workspace) {
  validate(stream, args, workspace);
  dispatch_float(args.shape.dtype, [&]<class T>(std::type_identity<T>) {
    switch (team_of(args.shape)) {
      case kWarp:
        return launch<T, kWarp>(stream, args, workspace);
      case 128:
        return launch<T, 128>(stream, args, workspace);
      default:
        return launch < T, std::is_same_v<T, double> ? 256 : 512 > (stream, args, workspace);
    }
  });
}

}  // namespace cohort::kernels
