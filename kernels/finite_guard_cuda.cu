// One launch for all blocks: their pointers travel as kernel arguments (64 of them; more take one launch per
// 64 and one more that spreads the masks). A CUDA block reads 32 KiB of one gradient in 16-byte loads, eight
// in flight per thread, and sets its member's bit in a word of device memory where it met a number that is
// not finite: an integer "or", so the order of blocks does not matter. The last block turns bits into masks
// and clears them. Moves the gradients once. No shared memory but one word; registers (sm_90): f32 32, f64
// 30.
#include "kernels/base/rehearsal.h"
#include "kernels/finite_guard.h"

#include <algorithm>
#include <cstddef>

#include "kernels/base/error.h"
#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/vec.cuh"

namespace cohort::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = 8;  // per thread
constexpr int kMaxTable = 64;
constexpr int kMaxMembers = 64;
constexpr int kMaxBranches = 64;

// Zero between launches. A branch's launches follow each other, so it needs one of each.
__device__ unsigned finished[kMaxBranches];
__device__ unsigned sick[kMaxBranches][kMaxMembers / 32];

struct Entry {
  const void* data;
  std::int64_t count;
  std::int32_t member;
  std::int32_t first_chunk;
};

struct Table {
  Entry entries[kMaxTable];
  std::int32_t size = 0;
  std::int32_t chunks = 0;
  bool last = true;  // the masks are written after this one
};

struct Outputs {
  const void* loss;
  const std::int32_t* allowed;
  std::int32_t* mask;
  std::int32_t* block_mask;  // of the table's first entry
  std::int32_t members;
};

template <class T>
__host__ __device__ constexpr std::int64_t chunk_size() {
  return std::int64_t{kThreads} * kLoads * (16 / static_cast<int>(sizeof(T)));
}

// NaN where x is not finite, else 0: one multiply-add keeps the verdict of many numbers.
template <class T>
__device__ T verdict(T x, T before) {
  return x * T{0} + before;
}

template <class T>
__device__ bool all_finite(const T* data, std::int64_t count) {
  constexpr int kWidth = Vec<T>::kWidth;
  constexpr std::int64_t kStride = std::int64_t{kThreads} * kWidth;
  T sum = 0;
  const bool aligned = aligned16(data);
  std::int64_t at = static_cast<std::int64_t>(threadIdx.x) * kWidth;
  if (aligned && count >= chunk_size<T>()) {
    Vec<T> v[kLoads];
#pragma unroll
    for (int load = 0; load < kLoads; ++load) v[load] = Vec<T>::load(data + at + load * kStride);
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) sum = verdict(v[load][e], sum);
    }
    return sum == T{0};
  }
  for (int load = 0; load < kLoads && at < count; ++load, at += kStride) {
    const int n = static_cast<int>(count - at < kWidth ? count - at : kWidth);
    const Vec<T> v = aligned && n == kWidth ? Vec<T>::load(data + at) : Vec<T>::load_part(data + at, n);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) sum = verdict(v[e], sum);
  }
  return sum == T{0};
}

template <class T>
__device__ void publish(const Table& table, const Outputs& out, unsigned* bits) {
  const T* loss = static_cast<const T*>(out.loss);
  const auto healthy = [&](int m) {
    return out.allowed[m] != 0 && verdict(loss[m], T{0}) == T{0} && (bits[m / 32] >> (m % 32) & 1) == 0;
  };
  const int thread = static_cast<int>(threadIdx.x);
  for (int m = thread; m < out.members; m += kThreads) out.mask[m] = healthy(m) ? 1 : 0;
  for (int b = thread; b < table.size; b += kThreads) {
    out.block_mask[b] = healthy(table.entries[b].member) ? 1 : 0;
  }
  __syncthreads();
  if (thread < kMaxMembers / 32) bits[thread] = 0;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    guard_kernel(const __grid_constant__ Table table, const __grid_constant__ Outputs out, int branch) {
  const int chunk = static_cast<int>(blockIdx.x);
  if (chunk < table.chunks) {
    int b = 0;
    while (b + 1 < table.size && table.entries[b + 1].first_chunk <= chunk) ++b;
    const Entry& entry = table.entries[b];
    const std::int64_t begin = (chunk - entry.first_chunk) * chunk_size<T>();
    const bool bad = !all_finite(static_cast<const T*>(entry.data) + begin, entry.count - begin);
    if (__any_sync(kFullMask, bad) && threadIdx.x % kWarp == 0) {
      atomicOr(&sick[branch][entry.member / 32], 1U << (entry.member % 32));
    }
  }
  if (last_block(&finished[branch], gridDim.x) && table.last) publish<T>(table, out, sick[branch]);
}

// Where there are several tables: the masks of one that was not the last.
__global__ void __launch_bounds__(kMaxTable)
    spread_kernel(const __grid_constant__ Table table, const __grid_constant__ Outputs out) {
  const int b = static_cast<int>(threadIdx.x);
  if (b < table.size) out.block_mask[b] = out.mask[table.entries[b].member];
}

template <class T>
Table table_of(std::span<const GradientBlock> blocks) {
  Table table;
  std::int64_t chunks = 0;
  for (const GradientBlock& block : blocks) {
    table.entries[table.size++] = {block.data, block.count, block.member, static_cast<std::int32_t>(chunks)};
    chunks += (block.count + chunk_size<T>() - 1) / chunk_size<T>();
  }
  check(chunks < (std::int64_t{1} << 31), "finite_guard: gradients are too large");
  table.chunks = static_cast<std::int32_t>(chunks);
  return table;
}

template <class T>
void guard(CudaStream stream, const FiniteGuardArgs& args) {
  Outputs out{args.loss, args.allowed, args.mask, args.block_mask, args.members};
  std::span<const GradientBlock> left = args.blocks;
  do {
    const std::size_t size = std::min<std::size_t>(left.size(), kMaxTable);
    Table table = table_of<T>(left.first(size));
    left = left.subspan(size);
    table.last = left.empty();
    const auto grid = static_cast<unsigned>(std::max(1, table.chunks));
    simt::launch(guard_kernel<T>, {.grid = grid, .block = kThreads, .stream = stream}, table, out,
                 stream.branch);
    out.block_mask += size;
  } while (!left.empty());
  out.block_mask = args.block_mask;
  for (left = args.blocks; left.size() > kMaxTable; left = left.subspan(kMaxTable)) {
    simt::launch(spread_kernel, {.grid = 1, .block = kMaxTable, .stream = stream},
                 table_of<T>(left.first(kMaxTable)), out);
    out.block_mask += kMaxTable;
  }
}

}  // namespace

void finite_guard(CudaStream stream, const FiniteGuardArgs& args) {
  const Rehearsed rehearsed(stream, "finite_guard", traffic(args));
  check(args.members >= 0 && args.members <= kMaxMembers, "finite_guard: at most 64 members");
  for (const GradientBlock& block : args.blocks) {
    check(block.member >= 0 && block.member < args.members, "finite_guard: a block's member does not exist");
  }
  check(stream.branch >= 0 && stream.branch < kMaxBranches, "finite_guard: no such branch");
  if (args.dtype == DType::f64) {
    guard<double>(stream, args);
  } else {
    check(args.dtype == DType::f32, "finite_guard: gradients are f32 or f64");
    guard<float>(stream, args);
  }
}

}  // namespace cohort::kernels
