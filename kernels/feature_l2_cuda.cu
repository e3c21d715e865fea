// One launch. A block of 256 threads does one chunk of 16 KiB (f32; 4,096 elements, f64: 8,192): four
// 16-byte loads of each map in flight per thread, the gradient stored the same way, its part of the sum
// reduced over the block in A; the last block adds the chunks in order, in double. Any address: where one of
// the pointers is not 16-byte aligned, the same thread does the same elements one by one, so the bits do not
// change. Bytes: the header's formula. Shared memory: 128 (f64: 256) bytes; registers (sm_90): f32 56,
// bf16 102, f64 56.
#include "kernels/base/rehearsal.h"
#include "kernels/base/valid_rows.h"
#include "kernels/feature_l2.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/vec.cuh"

namespace cohort::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxBranches = 64;

// Zero between launches; a branch's launches follow each other.
__device__ unsigned finished[kMaxBranches];

// feature_l2_workspace has eight bytes per 8,192 elements: one sum of A per chunk.
template <class A>
constexpr std::int64_t kChunk = 1024 * static_cast<std::int64_t>(sizeof(A));

__device__ inline double scale_of(const FeatureL2Args& args, std::int64_t rows) {
  if (rows == 0 || args.row_size == 0) return 0;
  switch (args.reduction) {
    case FeatureReduction::kMean:
      return 1.0 / (static_cast<double>(rows) * static_cast<double>(args.row_size));
    case FeatureReduction::kSumOverBatch:
      return 1.0 / static_cast<double>(rows);
    default:
      return 1;
  }
}

template <class T>
struct Maps {
  const T* student;
  const T* teacher;
  T* grad;
  bool accumulate;
  bool aligned;
};

template <class T>
__device__ Vec<T> load_group(const Maps<T>& maps, const T* from, std::int64_t at, int n) {
  return maps.aligned && n == Vec<T>::kWidth ? Vec<T>::load(from + at) : Vec<T>::load_part(from + at, n);
}

template <class T>
__device__ void store_group(const Maps<T>& maps, const Vec<T>& v, std::int64_t at, int n) {
  if (maps.aligned && n == Vec<T>::kWidth) {
    v.store(maps.grad + at);
  } else {
    v.store_part(maps.grad + at, n);
  }
}

// sum (s - t)^2 of kGroups groups, `stride` elements apart, of n elements each; writes their gradients. All
// loads come before the first store, which the compiler could not move them across: student and gradient may
// be one map.
template <int kGroups, class T>
__device__ Accumulator<T> group_sum(const Maps<T>& maps, std::int64_t at, std::int64_t stride, int n,
                                    Accumulator<T> k, Accumulator<T> sum) {
  using V = Vec<T>;
  V d[kGroups];
  V t[kGroups];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    d[g] = load_group(maps, maps.student, at + g * stride, n);
    t[g] = load_group(maps, maps.teacher, at + g * stride, n);
  }
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
#pragma unroll
    for (int e = 0; e < V::kWidth; ++e) {
      d[g][e] -= t[g][e];
      sum += d[g][e] * d[g][e];
      d[g][e] *= k;
    }
    if (maps.grad == nullptr) continue;
    if (maps.accumulate) {
      const V before = load_group<T>(maps, maps.grad, at + g * stride, n);
#pragma unroll
      for (int e = 0; e < V::kWidth; ++e) d[g][e] += before[e];
    }
    store_group(maps, d[g], at + g * stride, n);
  }
  return sum;
}

// One thread's groups of [begin, end): the elements before `valid` count, the others have gradient 0.
template <class T>
__device__ Accumulator<T> chunk_sum(const Maps<T>& maps, std::int64_t begin, std::int64_t end,
                                    std::int64_t valid, Accumulator<T> k) {
  constexpr int kWidth = Vec<T>::kWidth;
  constexpr std::int64_t kStride = std::int64_t{kThreads} * kWidth;
  constexpr int kTogether = 4;
  Accumulator<T> sum = 0;
  std::int64_t at = begin + static_cast<std::int64_t>(threadIdx.x) * kWidth;
  const std::int64_t counted = end < valid ? end : valid;
#pragma unroll 1
  for (; at + (kTogether - 1) * kStride + kWidth <= counted; at += kTogether * kStride) {
    sum = group_sum<kTogether>(maps, at, kStride, kWidth, k, sum);
  }
#pragma unroll 1
  for (; at < counted; at += kStride) {
    const std::int64_t n = counted - at;
    sum = group_sum<1>(maps, at, 0, static_cast<int>(n < kWidth ? n : kWidth), k, sum);
  }
  if (maps.grad == nullptr || maps.accumulate || counted == end) return sum;
  for (at = (begin > valid ? begin : valid) + threadIdx.x; at < end; at += kThreads) maps.grad[at] = T{};
  return sum;
}

template <class A>
__device__ void finish(const FeatureL2Args& args, double weight, double scale, const A* partial) {
  double sum = 0;
  for (unsigned chunk = threadIdx.x; chunk < gridDim.x; chunk += kThreads)
    sum += static_cast<double>(partial[chunk]);
  sum = block_sum(sum);
  if (threadIdx.x != 0) return;
  const double value = scale * sum;
  if (args.value != nullptr) *static_cast<A*>(args.value) = static_cast<A>(value);
  if (args.loss != nullptr) *static_cast<A*>(args.loss) += static_cast<A>(weight * value);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    l2_kernel(const __grid_constant__ FeatureL2Args args, Accumulator<T>* partial, int branch) {
  using A = Accumulator<T>;
  const double weight = static_cast<double>(*static_cast<const A*>(args.weight));
  const std::int64_t rows = count_valid(args.valid_rows, args.rows);
  const std::int64_t elements = args.rows * args.row_size;
  const std::int64_t valid = weight == 0 ? 0 : rows * args.row_size;
  const double scale = scale_of(args, rows);
  const auto k = static_cast<A>(2 * weight * scale);
  const Maps<T> maps{static_cast<const T*>(args.student), static_cast<const T*>(args.teacher),
                     static_cast<T*>(args.grad_student), args.grad_mode == GradMode::kAccumulate,
                     aligned16(args.student) && aligned16(args.teacher) && aligned16(args.grad_student)};
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kChunk<A>;
  const std::int64_t end = begin + kChunk<A> < elements ? begin + kChunk<A> : elements;
  A sum = chunk_sum(maps, begin, end, valid, k);
  if (weight == 0 || elements == 0) {
    if (blockIdx.x == 0 && threadIdx.x == 0 && args.value != nullptr) *static_cast<A*>(args.value) = 0;
    return;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
  if (last_block(&finished[branch], gridDim.x)) finish(args, weight, scale, partial);
}

}  // namespace

void feature_l2(CudaStream stream, const FeatureL2Args& args, Workspace workspace) {
  const Rehearsed rehearsed(stream, "feature_l2", traffic(args));
  check(args.weight != nullptr, "feature_l2: no weight");
  check(args.rows >= 0 && args.row_size >= 0, "feature_l2: negative sizes");
  const std::int64_t elements = args.rows * args.row_size;
  check(workspace.size() >= feature_l2_workspace(elements), "feature_l2: workspace too small");
  check(stream.branch >= 0 && stream.branch < kMaxBranches, "feature_l2: no such branch");
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    using A = Accumulator<T>;
    const auto blocks =
        static_cast<unsigned>(std::max<std::int64_t>(1, (elements + kChunk<A> - 1) / kChunk<A>));
    simt::launch(l2_kernel<T>, {.grid = blocks, .block = kThreads, .stream = stream}, args,
                 reinterpret_cast<A*>(workspace.data()), stream.branch);
  });
}

}  // namespace cohort::kernels
