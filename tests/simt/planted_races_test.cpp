// Planted bugs: barriers, fences and atomics that are missing. Each kernel is run whole, where every build
// must be content, and with one part missing, where the builds named in the table must object.
#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/grid_barrier.cuh"
#include "simt/runtime/race_reports.h"
#include "simt/support/flavour.h"
#include "simt/support/memory.h"

namespace simt {
namespace {

using cohort::kernels::kFullMask;
using cohort::kernels::thread_in_block;
using cohort::kernels::warp_sum;
using test::Memory;

constexpr int kThreads = 128;

// kMissing == 0: whole.
template <int kMissing>
__global__ void shift_rounds(const int* x, int* y) {
  SIMT_SHARED(int, tile, [kThreads]);
  const int t = thread_in_block();
  int value = x[t];
  for (int round = 0; round < 3; ++round) {
    tile[t] = value;
    if constexpr (kMissing != 1) __syncthreads();
    value = tile[(t + 37) % kThreads] + round;
    if constexpr (kMissing != 2) __syncthreads();
  }
  y[t] = value;
}

template <int kMissing>
__device__ float sum_of_block(float value) {
  SIMT_SHARED(float, partial, [32]);
  const int t = thread_in_block();
  value = warp_sum(value);
  if (t % 32 == 0) partial[t / 32] = value;
  if constexpr (kMissing != 1) __syncthreads();
  value = warp_sum(t % 32 < kThreads / 32 ? partial[t % 32] : 0.0F);
  if constexpr (kMissing != 2) __syncthreads();
  return value;
}

template <int kMissing>
__global__ void two_sums(const int* x, int* y) {
  const int t = thread_in_block();
  const float a = sum_of_block<kMissing>(static_cast<float>(x[t]));
  const float b = sum_of_block<kMissing>(static_cast<float>(x[t] * x[t] % 7));
  y[t] = static_cast<int>(a + 1000.0F * b);
}

template <int kMissing>
__global__ void transpose(const int* x, int* y) {
  SIMT_SHARED(int, tile, [8][17]);
  tile[threadIdx.y][threadIdx.x] = x[threadIdx.y * 16 + threadIdx.x];
  if constexpr (kMissing != 1) __syncthreads();
  const int t = thread_in_block();
  y[t] = tile[t % 8][t / 8];
}

// The last block adds what all blocks wrote. `words`: counter, then one flag per use.
template <int kMissing>
__global__ void last_block_sum(const int* x, int* y, unsigned* counter) {
  SIMT_SHARED(int, last, [1]);
  const int t = thread_in_block();
  const int blocks = static_cast<int>(gridDim.x);
  y[kThreads + static_cast<int>(blockIdx.x) * kThreads + t] = x[t] + static_cast<int>(blockIdx.x);
  if constexpr (kMissing != 1) __syncthreads();
  if (t == 0) {
    if constexpr (kMissing != 2) __threadfence();
    last[0] = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1 ? 1 : 0;
    if constexpr (kMissing != 3) __threadfence();
  }
  if constexpr (kMissing != 4) __syncthreads();
  if (last[0] != 1) return;
  int sum = 0;
  for (int b = 0; b < blocks; ++b) sum += y[kThreads + b * kThreads + (t + 1) % kThreads];
  y[t] = sum;
}

// Every block adds what all blocks wrote: grid_barrier() of grid_barrier.cuh, written out.
template <int kMissing>
__global__ void sum_in_every_block(const int* x, int* y, unsigned* word) {
  const int t = thread_in_block();
  const int block = static_cast<int>(blockIdx.x);
  const int blocks = static_cast<int>(gridDim.x);
  y[block * kThreads + t] = x[t] + block;
  if constexpr (kMissing != 1) __syncthreads();
  if (t == 0) {
    constexpr unsigned kTurns = 0x80000000U;
    if constexpr (kMissing != 2) __threadfence();
    const unsigned before = atomicAdd(word, block == 0 ? kTurns - gridDim.x + 1 : 1U);
    if constexpr (kMissing != 3) cohort::kernels::wait_for_change(word, before, kTurns);
    if constexpr (kMissing != 4) __threadfence();
  }
  if constexpr (kMissing != 5) __syncthreads();
  int sum = 0;
  for (int b = 0; b < blocks; ++b) sum += y[b * kThreads + (t + 1) % kThreads];
  y[(blocks + block) * kThreads + t] = sum;
}

// Lanes write, shuffle, and read each other's words: a shuffle lines the lanes up and orders no memory.
template <int kMissing>
__global__ void exchange_beside_shuffle(const int* x, int* y) {
  SIMT_SHARED(int, tile, [kThreads]);
  const int t = thread_in_block();
  tile[t] = x[t];
  const int other = __shfl_xor_sync(kFullMask, x[t], 1);
  if constexpr (kMissing != 1) __syncwarp();
  y[t] = tile[t ^ 1] + other;
}

template <int kMissing>
__global__ void exchange_in_warp(const int* x, int* y) {
  SIMT_SHARED(int, tile, [kThreads]);
  const int t = thread_in_block();
  tile[t] = x[t];
  if constexpr (kMissing != 1) __syncwarp();
  y[t] = tile[t ^ 5];
}

// Barriers of one half of the warp say nothing to the other half.
template <int kMissing>
__global__ void halves(const int* x, int* y) {
  SIMT_SHARED(int, tile, [kThreads]);
  const int t = thread_in_block();
  const unsigned half = t % 32 < 16 ? 0x0000ffffU : 0xffff0000U;
  tile[t] = x[t];
  if constexpr (kMissing != 1) __syncwarp(half);
  y[t] = tile[t ^ (kMissing == 2 ? 16 : 3)];
}

template <int kMissing>
__global__ void count_blocks(const int*, int* y) {
  if (thread_in_block() != 0) return;
  if constexpr (kMissing != 1) {
    atomicAdd(&y[0], 1);
  } else {
    y[0] += 1;
  }
}

template <int kMissing>
__global__ void smooth(const int* x, int* y) {
  const int t = thread_in_block();
  if constexpr (kMissing != 1) {
    y[t] = x[t] + x[(t + 1) % kThreads];
  } else {  // in place
    y[kThreads + t] = t;
    __syncthreads();
    y[t] = y[kThreads + (t + 1) % kThreads];
    y[kThreads + t] = y[t] + 1;
  }
}

using Kernel = void (*)(const int*, int*);
struct Case {
  const char* name;
  Kernel whole, broken;
  bool seen_by_schedules;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

struct Outcome {
  std::vector<int> values;
  bool fault = false;
  bool raced = false;
};

template <class F>
Outcome outcome(const Schedule& schedule, F&& launch_on) {
  const ScopedSchedule scope(schedule);
  std::vector<int> input(kThreads);
  for (int i = 0; i < kThreads; ++i) input[i] = (i * 7919) % 101;
  Memory<int> x(input), y(kThreads * 8, 0);
  Outcome result;
  const ExpectedRaces races;
  try {
    launch_on(x.data(), y.data());
  } catch (const Fault&) {
    result.fault = true;
  }
  result.raced = test::tsan() && races.seen();
  result.values = y.values();
  return result;
}

template <class F>
void expect_clean(F&& launch_on) {
  const Outcome reference = outcome({}, launch_on);
  for (const Schedule& schedule : test::all_schedules()) {
    const Outcome result = outcome(schedule, launch_on);
    EXPECT_FALSE(result.fault) << to_string(schedule);
    EXPECT_FALSE(result.raced) << to_string(schedule);
    EXPECT_EQ(result.values, reference.values) << to_string(schedule);
  }
}

template <class F, class G>
void expect_caught(F&& whole, G&& broken, bool seen_by_schedules) {
  const Outcome reference = outcome({}, whole);
  bool differs = false, raced = false;
  for (const Schedule& schedule : test::all_schedules()) {
    const Outcome result = outcome(schedule, broken);
    differs |= result.fault || result.values != reference.values;
    raced |= result.raced;
  }
  EXPECT_EQ(differs, seen_by_schedules);
  EXPECT_EQ(raced, test::tsan());
}

class PlantedRace : public testing::TestWithParam<Case> {
 protected:
  static dim3 block() {
    return std::string_view(GetParam().name).starts_with("transpose") ? dim3(16, 8) : dim3(kThreads);
  }
  static unsigned grid() { return std::string_view(GetParam().name).starts_with("blocks") ? 3 : 1; }
  static auto on(Kernel kernel) {
    return [kernel](const int* x, int* y) { launch(kernel, {.grid = grid(), .block = block()}, x, y); };
  }
};

TEST_P(PlantedRace, WholeKernelIsClean) {
  expect_clean(on(GetParam().whole));
}
TEST_P(PlantedRace, BrokenKernelIsCaught) {
  expect_caught(on(GetParam().whole), on(GetParam().broken), GetParam().seen_by_schedules);
}

INSTANTIATE_TEST_SUITE_P(Simt, PlantedRace,
                         testing::Values(Case{"shift_after_write", shift_rounds<0>, shift_rounds<1>, true},
                                         Case{"shift_before_rewrite", shift_rounds<0>, shift_rounds<2>, true},
                                         Case{"sum_after_write", two_sums<0>, two_sums<1>, true},
                                         Case{"sum_before_rewrite", two_sums<0>, two_sums<2>, true},
                                         Case{"transpose", transpose<0>, transpose<1>, true},
                                         Case{"syncwarp_beside_shuffle", exchange_beside_shuffle<0>,
                                              exchange_beside_shuffle<1>, false},
                                         Case{"syncwarp", exchange_in_warp<0>, exchange_in_warp<1>, true},
                                         Case{"syncwarp_of_halves", halves<0>, halves<1>, true},
                                         Case{"blocks_without_atomic", count_blocks<0>, count_blocks<1>,
                                              false},
                                         Case{"in_place", smooth<0>, smooth<1>, true}),
                         [](auto& i) { return std::string(i.param.name); });

// Reading the other half's word after a barrier of the own half: only in some order is it there.
TEST(PlantedRaces, BarrierOfHalfAWarpDoesNotOrderTheOtherHalf) {
  const auto broken = [](const int* x, int* y) { launch(halves<2>, {.grid = 1, .block = kThreads}, x, y); };
  bool raced = false;
  for (const Schedule& schedule : test::all_schedules()) raced |= outcome(schedule, broken).raced;
  EXPECT_EQ(raced, test::tsan());
}

template <int kMissing>
void last_block_case(const int* x, int* y) {
  Memory<unsigned> counter(1, 0U);
  launch(last_block_sum<kMissing>, {.grid = 4, .block = kThreads}, x, y, counter.data());
}

TEST(PlantedRaces, LastBlock) {
  expect_clean(last_block_case<0>);
  expect_caught(last_block_case<0>, last_block_case<1>, false);  // own block's writes, not yet done
  expect_caught(last_block_case<0>, last_block_case<2>, false);  // fence before the atomic
  expect_caught(last_block_case<0>, last_block_case<3>, false);  // fence after the atomic
  expect_caught(last_block_case<0>, last_block_case<4>, true);   // barrier before the flag is read
}

template <int kMissing>
void grid_barrier_case(const int* x, int* y) {
  Memory<unsigned> word(1, 0U);
  launch(sum_in_every_block<kMissing>, {.grid = 3, .block = kThreads, .cooperative = true}, x, y,
         word.data());
}

TEST(PlantedRaces, GridBarrier) {
  expect_clean(grid_barrier_case<0>);
  expect_caught(grid_barrier_case<0>, grid_barrier_case<1>, true);   // own block's writes, not yet done
  expect_caught(grid_barrier_case<0>, grid_barrier_case<2>, false);  // fence before the block is counted
  expect_caught(grid_barrier_case<0>, grid_barrier_case<3>, true);   // nobody waits
  expect_caught(grid_barrier_case<0>, grid_barrier_case<4>, false);  // fence after the wait
  expect_caught(grid_barrier_case<0>, grid_barrier_case<5>, true);   // barrier before the others' values
}

}  // namespace
}  // namespace simt
