// One launch. kSample: a warp per row, four rows in a block. kBatch: one block of 256 threads, whose warps
// take the rows in turn and which adds the warps' sums in their order. Every thread of a team sees the same
// sums, so all of them run the search (kernels/base/simplex_search.h) in step; alpha and the gradient are in
// shared memory (1 KiB), written by one lane. Nothing of a row is kept: each evaluation reads it again, from
// L1 or L2, for the largest logit and for the sums.
#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/base/simplex_search.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cuda/cohort_loss_math.cuh"
#include "kernels/simplex_fit.h"

namespace cohort::kernels {
namespace {

constexpr int kRowsInBlock = 4;
constexpr int kBatchThreads = 256;

struct TeamMemory {
  double alpha[kMaxMembers];
  double gradient[kMaxMembers];
};

// A warp and its row.
struct WarpTeam {
  std::int64_t first, end;
  static constexpr std::int64_t stride = 1;
  int lane;

  __device__ double sum(double of_warp) const { return of_warp; }
  __device__ bool writes() const { return lane == 0; }
  __device__ void sync() const { __syncwarp(); }
};

// A block and all rows.
struct BlockTeam {
  std::int64_t first, end;
  static constexpr std::int64_t stride = kBatchThreads / kWarp;
  int lane;

  __device__ double sum(double of_warp) const { return block_sum(lane == 0 ? of_warp : 0.0); }
  __device__ bool writes() const { return threadIdx.x == 0; }
  __device__ void sync() const { __syncthreads(); }
};

template <class T, class Team>
struct Problem {
  const SimplexFitArgs& args;
  Team team;
  TeamMemory& memory;
  double inv_rows;

  __device__ int members() const { return args.shape.members; }
  __device__ double alpha(int i) const { return memory.alpha[i]; }
  __device__ double gradient(int i) const { return memory.gradient[i]; }

  __device__ double logit(int m, std::int64_t b, std::int64_t c) const {
    return static_cast<double>(to_float(
        static_cast<const T*>(args.logits[static_cast<std::size_t>(m)])[b * args.shape.classes + c]));
  }
  template <class F>
  __device__ void each_class(F&& f) const {
    for (std::int64_t c = team.lane; c < args.shape.classes; c += kWarp) f(c);
  }
  // The mean over the team's rows of f(row), a warp's sum.
  template <class F>
  __device__ double mean(F&& f) const {
    double sum = 0;
    for (std::int64_t b = team.first; b < team.end; b += Team::stride) sum += f(b);
    return team.sum(sum) * inv_rows;
  }
  template <class Z>
  __device__ double largest(Z&& z) const {
    double max = -loss::infinity<double>();
    each_class([&](std::int64_t c) { max = MaxOp::apply(max, z(c)); });
    return warp_max(max);
  }
  __device__ bool labelled(std::int64_t b) const {
    return args.labels[b] >= 0 && args.labels[b] < args.shape.classes;
  }

  __device__ double vertex(int i) const {
    return mean([&](std::int64_t b) {
      const auto z = [&](std::int64_t c) { return logit(i, b, c); };
      const double max = largest(z);
      double sum = 0;
      each_class([&](std::int64_t c) { sum += exp(z(c) - max); });
      sum = warp_sum(sum);
      return labelled(b) ? max + log(sum) - z(args.labels[b]) : loss::not_a_number<double>();
    });
  }
  __device__ void start(int best) {
    if (team.writes()) {
      for (int i = 0; i < members(); ++i) memory.alpha[i] = i == best ? 1 : 0;
    }
    team.sync();
  }
  __device__ double mixed(std::int64_t b, std::int64_t c, int to, int from, double step) const {
    double sum = 0;
    for (int m = 0; m < members(); ++m) {
      const double w = memory.alpha[m] + (m == to ? step : 0) - (m == from ? step : 0);
      sum += w * logit(m, b, c);
    }
    return sum;
  }
  __device__ void differentiate() {
    for (int i = 0; i < members(); ++i) {
      const double g = mean([&](std::int64_t b) {
        const auto z = [&](std::int64_t c) { return mixed(b, c, -1, -1, 0); };
        const double max = largest(z);
        double weight = 0;
        double sum = 0;
        each_class([&](std::int64_t c) {
          const double e = exp(z(c) - max);
          weight += e;
          sum += e * logit(i, b, c);
        });
        return warp_sum(sum) / warp_sum(weight) - logit(i, b, args.labels[b]);
      });
      if (team.writes()) memory.gradient[i] = g;
    }
    team.sync();
  }
  __device__ Slope slope(int to, int from, double step) const {
    Slope total{0, 0};
    for (std::int64_t b = team.first; b < team.end; b += Team::stride) {
      const auto z = [&](std::int64_t c) { return mixed(b, c, to, from, step); };
      const double max = largest(z);
      double weight = 0;
      double first = 0;
      double second = 0;
      each_class([&](std::int64_t c) {
        const double e = exp(z(c) - max);
        const double d = logit(to, b, c) - logit(from, b, c);
        weight += e;
        first += e * d;
        second += e * d * d;
      });
      weight = warp_sum(weight);
      first = warp_sum(first) / weight;
      const std::int64_t label = args.labels[b];
      total.first += first - (logit(to, b, label) - logit(from, b, label));
      total.second += warp_sum(second) / weight - first * first;
    }
    return {team.sum(total.first) * inv_rows, team.sum(total.second) * inv_rows};
  }
  __device__ void move(int to, int from, double step) {
    team.sync();  // everybody has read alpha
    if (team.writes()) {
      memory.alpha[to] += step;
      memory.alpha[from] = step == memory.alpha[from] ? 0 : memory.alpha[from] - step;
    }
    team.sync();
  }
  template <class A>
  __device__ void write(bool finite, A* out) const {
    if (!team.writes()) return;
    for (int m = 0; m < members(); ++m) {
      out[m] = finite ? static_cast<A>(memory.alpha[m]) : loss::not_a_number<A>();
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kRowsInBlock* kWarp, 4)
    sample_kernel(const __grid_constant__ SimplexFitArgs args) {
  using A = Accumulator<T>;
  SIMT_SHARED(TeamMemory, memory, [kRowsInBlock]);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t b = static_cast<std::int64_t>(blockIdx.x) * kRowsInBlock + warp;
  if (b >= args.shape.rows) return;
  A* const out = static_cast<A*>(args.weights) + b * args.shape.members;
  if (b >= count_valid(args.valid_rows, args.shape.rows)) {
    if (lane < args.shape.members) out[lane] = 0;
    return;
  }
  Problem<T, WarpTeam> problem{args, {b, b + 1, lane}, memory[warp], 1.0};
  const bool finite = minimise_on_simplex(problem);
  problem.write(finite, out);
}

template <class T>
__global__ void __launch_bounds__(kBatchThreads, 1)
    batch_kernel(const __grid_constant__ SimplexFitArgs args) {
  SIMT_SHARED(TeamMemory, memory, [1]);
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t valid = count_valid(args.valid_rows, args.shape.rows);
  Problem<T, BlockTeam> problem{args,
                                {thread / kWarp, valid, thread % kWarp},
                                memory[0],
                                valid == 0 ? 0.0 : 1.0 / static_cast<double>(valid)};
  const bool finite = minimise_on_simplex(problem);
  problem.write(finite, static_cast<Accumulator<T>*>(args.weights));
}

}  // namespace

std::size_t simplex_fit_workspace(CudaStream, const CohortLossShape&) {
  return 0;
}

void simplex_fit(CudaStream stream, const SimplexFitArgs& args, Workspace) {
  const CohortLossShape& s = args.shape;
  check(s.members >= 1 && s.members <= kMaxMembers, "simplex_fit: members must be in [1, 16]");
  check(s.rows >= 0 && s.classes >= 1, "simplex_fit: rows must not be negative, classes must be positive");
  check(args.labels != nullptr && args.weights != nullptr, "simplex_fit: no labels or no weights");
  const bool batch = args.scope == FitScope::kBatch;
  const auto blocks = static_cast<unsigned>(batch ? 1 : (s.rows + kRowsInBlock - 1) / kRowsInBlock);
  if (blocks == 0) return;
  const unsigned threads = batch ? kBatchThreads : kRowsInBlock * kWarp;
  const Rehearsed rehearsed(stream, "simplex_fit", traffic(args));
  dispatch_float(s.dtype, [&]<class T>(std::type_identity<T>) {
    simt::launch(batch ? batch_kernel<T> : sample_kernel<T>,
                 {.grid = blocks, .block = threads, .stream = stream}, args);
  });
}

}  // namespace cohort::kernels
