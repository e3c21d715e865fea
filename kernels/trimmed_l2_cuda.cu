// 2 + digits launches: one clears the counts; one per digit counts, for every group, how many squares with
// the digits found so far have each value of the next one; the last sums what is kept and writes the
// gradient, and its last block adds the chunks in order, in double. A block of 256 threads does a chunk of
// 4,096 elements, and finds the digits of the launches before from their counts by itself: a scan over 256
// counts each, so that no launch waits for a block of its own. Counts are integers: their atomic sums have
// one value. Shared memory: about 2.2 KiB. Bytes: the header's formula. Not timed on a GPU yet.
#include <algorithm>

#include "kernels/base/rehearsal.h"
#include "kernels/base/square_key.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/vec.cuh"
#include "kernels/trimmed_l2.h"

namespace cohort::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kBins = 256;
constexpr std::int64_t kChunk = 4096;
constexpr int kMaxBranches = 64;

// Zero between launches; a branch's launches follow each other.
__device__ unsigned finished[kMaxBranches];

std::int64_t chunks_of(const TrimmedL2Shape& shape) {
  return std::max<std::int64_t>(1, (shape.group_size() + kChunk - 1) / kChunk);
}

// A block's part of its group: blockIdx.x counts chunks, blockIdx.y groups.
struct Part {
  std::int64_t begin, end, size;  // elements of the map; size: of the group, those that count
  std::uint32_t dropped;
};

__device__ inline Part part_of(const TrimmedL2Args& args) {
  const TrimmedL2Shape& s = args.shape;
  const std::int64_t rows = count_valid(args.valid_rows, s.rows);
  const std::int64_t group = blockIdx.y;
  const std::int64_t size = s.per_row ? (group < rows ? s.row_size : 0) : rows * s.row_size;
  const std::int64_t base = group * s.row_size, first = base + blockIdx.x * kChunk;
  const std::int64_t last = first + kChunk < base + size ? first + kChunk : base + size;
  return {first, last > first ? last : first, size, static_cast<std::uint32_t>(size / 3)};
}

template <class A>
struct Border {
  TrimBorder<A> border;
  std::uint32_t to_drop;
};

// From the counts of the first `digits` digits, (digits, groups, bins).
template <class A>
__device__ Border<A> border_of(const std::uint32_t* counts, int digits, std::uint32_t to_drop) {
  using Key = SquareKey<A>;
  SIMT_SHARED(std::uint32_t, of_warp, [kThreads / kWarp]);
  SIMT_SHARED(std::uint32_t, found, [3]);  // digit, how many to drop there, how many there are
  Border<A> result{{.all = to_drop == 0, .key = 0, .of_border = 1}, to_drop};
  if (to_drop == 0) return result;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  for (int digit = 0; digit < digits; ++digit) {
    // Thread 0 has the largest value of the digit.
    const int bin = kBins - 1 - thread;
    const std::uint32_t here =
        counts[(static_cast<std::int64_t>(digit) * gridDim.y + blockIdx.y) * kBins + bin];
    std::uint32_t upto = here;
    for (int step = 1; step < kWarp; step *= 2) {
      const std::uint32_t other = __shfl_up_sync(kFullMask, upto, static_cast<unsigned>(step));
      if (lane >= step) upto += other;
    }
    if (lane == kWarp - 1) of_warp[warp] = upto;
    __syncthreads();
    for (int w = 0; w < warp; ++w) upto += of_warp[w];
    if (upto >= result.to_drop && upto - here < result.to_drop) {
      found[0] = static_cast<std::uint32_t>(bin);
      found[1] = result.to_drop - (upto - here);
      found[2] = here;
    }
    __syncthreads();
    const int shift = 8 * (static_cast<int>(sizeof(A)) - 1 - digit);
    result.border.key |= static_cast<Key>(found[0]) << shift;
    result.border.of_border = static_cast<A>(found[2] - found[1]) / static_cast<A>(found[2]);
    result.to_drop = found[1];  // the next digit's come after another barrier
  }
  return result;
}

template <class T, class A = Accumulator<T>>
__device__ A difference(const TrimmedL2Args& args, std::int64_t i) {
  return to_float(static_cast<const T*>(args.student)[i]) - to_float(static_cast<const T*>(args.teacher)[i]);
}

template <class T>
__device__ double weight_of(const TrimmedL2Args& args) {
  return static_cast<double>(*static_cast<const Accumulator<T>*>(args.weight));
}

__global__ void __launch_bounds__(kThreads) trim_clear_kernel(std::uint32_t* counts, std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) counts[i] = 0;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    trim_count_kernel(const __grid_constant__ TrimmedL2Args args, std::uint32_t* counts, int digit) {
  using A = Accumulator<T>;
  using Key = SquareKey<A>;
  SIMT_SHARED(std::uint32_t, bins, [kBins]);
  const Part part = part_of(args);
  if (weight_of<T>(args) == 0 || part.dropped == 0) return;
  const Key border = border_of<A>(counts, digit, part.dropped).border.key;
  const int shift = 8 * (static_cast<int>(sizeof(A)) - 1 - digit);
  const Key known = digit == 0 ? Key{0} : ~Key{0} << (shift + 8);
  bins[threadIdx.x] = 0;
  __syncthreads();
  for (std::int64_t i = part.begin + threadIdx.x; i < part.end; i += kThreads) {
    const A d = difference<T>(args, i);
    const Key key = key_of_square<A>(d * d);
    if ((key & known) == border) atomicAdd(&bins[(key >> shift) & 255U], 1U);
  }
  __syncthreads();
  const std::uint32_t here = bins[threadIdx.x];
  if (here == 0) return;
  atomicAdd(&counts[(static_cast<std::int64_t>(digit) * gridDim.y + blockIdx.y) * kBins + threadIdx.x], here);
}

// Of a block: what it keeps; writes its gradients.
template <class T, class A = Accumulator<T>>
__device__ A trimmed_sum(const TrimmedL2Args& args, const Part& part, const TrimBorder<A>& border, A k) {
  auto* const grad = static_cast<T*>(args.grad_student);
  A sum = 0;
  for (std::int64_t i = part.begin + threadIdx.x; i < part.end; i += kThreads) {
    const A d = difference<T>(args, i), keep = border.keeps(key_of_square<A>(d * d));
    sum += keep * (d * d);
    if (grad == nullptr) continue;
    const A g = k * keep * d;
    grad[i] = from_float<T>(args.grad_mode == GradMode::kAccumulate ? to_float(grad[i]) + g : g);
  }
  return sum;
}

// Those of the block's elements that do not count.
template <class T>
__device__ void clear_rest(const TrimmedL2Args& args, std::int64_t from) {
  if (args.grad_student == nullptr || args.grad_mode == GradMode::kAccumulate) return;
  const TrimmedL2Shape& s = args.shape;
  const std::int64_t base = blockIdx.y * s.row_size, first = base + blockIdx.x * kChunk;
  const std::int64_t whole = base + s.group_size();
  const std::int64_t end = first + kChunk < whole ? first + kChunk : whole;
  for (std::int64_t i = from + threadIdx.x; i < end; i += kThreads)
    static_cast<T*>(args.grad_student)[i] = T{};
}

template <class A>
__device__ void finish(const TrimmedL2Args& args, double weight, double scale, const double* partial) {
  double sum = 0;
  for (unsigned i = threadIdx.x; i < gridDim.x * gridDim.y; i += kThreads) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x != 0) return;
  const double value = scale * sum;
  if (args.value != nullptr) *static_cast<A*>(args.value) = static_cast<A>(value);
  if (args.loss != nullptr) *static_cast<A*>(args.loss) += static_cast<A>(weight * value);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    trim_sum_kernel(const __grid_constant__ TrimmedL2Args args, const std::uint32_t* counts, double* partial,
                    int branch) {
  using A = Accumulator<T>;
  const TrimmedL2Shape& s = args.shape;
  const Part part = part_of(args);
  const double weight = weight_of<T>(args);
  const std::int64_t rows = count_valid(args.valid_rows, s.rows);
  if (weight == 0 || rows * s.row_size == 0) {
    clear_rest<T>(args, part.begin);
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0 && args.value != nullptr)
      *static_cast<A*>(args.value) = 0;
    return;
  }
  const std::int64_t size = s.per_row ? s.row_size : rows * s.row_size;
  const double kept = static_cast<double>(size - size / 3) * static_cast<double>(s.per_row ? rows : 1);
  const double scale = 1.0 / kept;
  const Border<A> found = border_of<A>(counts, s.digits(), part.dropped);
  const A own = trimmed_sum<T>(args, part, found.border, static_cast<A>(2 * weight * scale));
  clear_rest<T>(args, part.end);
  const A sum = block_sum(own);
  if (threadIdx.x == 0) partial[blockIdx.y * gridDim.x + blockIdx.x] = static_cast<double>(sum);
  if (last_block(&finished[branch], gridDim.x * gridDim.y)) finish<A>(args, weight, scale, partial);
}

}  // namespace

std::size_t trimmed_l2_workspace(CudaStream, const TrimmedL2Shape& shape) {
  const auto groups = static_cast<std::size_t>(std::max<std::int64_t>(1, shape.groups()));
  return groups * static_cast<std::size_t>(chunks_of(shape)) * sizeof(double) +
         groups * static_cast<std::size_t>(shape.digits()) * kBins * sizeof(std::uint32_t);
}

void trimmed_l2(CudaStream stream, const TrimmedL2Args& args, Workspace workspace) {
  validate(args, workspace, trimmed_l2_workspace(stream, args.shape));
  check(stream.branch >= 0 && stream.branch < kMaxBranches, "trimmed_l2: no such branch");
  const Rehearsed rehearsed(stream, "trimmed_l2", traffic(args));
  const TrimmedL2Shape& s = args.shape;
  const std::int64_t groups = std::max<std::int64_t>(1, s.groups()), chunks = chunks_of(s);
  auto* const partial = reinterpret_cast<double*>(workspace.data());
  auto* const counts = reinterpret_cast<std::uint32_t*>(partial + groups * chunks);
  const std::int64_t count = groups * s.digits() * kBins;
  const dim3 grid(static_cast<unsigned>(chunks), static_cast<unsigned>(groups), 1);
  dispatch_float(s.dtype, [&]<class T>(std::type_identity<T>) {
    simt::launch(trim_clear_kernel,
                 {.grid = static_cast<unsigned>((count + kThreads - 1) / kThreads),
                  .block = kThreads,
                  .stream = stream},
                 counts, count);
    for (int digit = 0; digit < s.digits(); ++digit)
      simt::launch(trim_count_kernel<T>, {.grid = grid, .block = kThreads, .stream = stream}, args, counts,
                   digit);
    simt::launch(trim_sum_kernel<T>, {.grid = grid, .block = kThreads, .stream = stream}, args,
                 static_cast<const std::uint32_t*>(counts), partial, stream.branch);
  });
}

}  // namespace cohort::kernels
