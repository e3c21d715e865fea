// Planted bugs: accesses out of bounds, memory that was never written, barriers and collectives that cannot
// complete, launches that a device refuses. The builds named in each test must object, and the process goes
// on afterwards.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/cuda/grid_barrier.cuh"
#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/ptx.cuh"
#include "simt/support/flavour.h"
#include "simt/support/memory.h"

namespace simt {
namespace {

using cohort::kernels::kFullMask;
using test::Memory;

// What the launch is answered with; empty: nothing.
template <class F>
std::string fault_of(F&& launch_it) {
  try {
    launch_it();
  } catch (const Fault& fault) {
    return fault.what();
  }
  return "";
}

// Every part is in the text.
void expect_parts(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts)
    EXPECT_NE(text.find(part), std::string::npos) << part << " is not in:\n" << text;
}

std::string here(int line) {
  return "planted_bugs_test.cpp:" + std::to_string(line);
}

// --- bounds and alignment: ASan and UBSan ---

__global__ void write_past_end(float* x, int n) {
  x[threadIdx.x + 1] = static_cast<float>(n);
}

TEST(PlantedBounds, GlobalWriteOnePastTheEnd) {
  if (!test::asan()) GTEST_SKIP() << "AddressSanitizer's";
  Memory<float> x(32, 0.0F);
  EXPECT_DEATH(launch(write_past_end, {.grid = 1, .block = 32}, x.data(), 32),
               "heap-buffer-overflow.*#0 [^\n]*write_past_end[^\n]*planted_bugs_test.cpp");
}

__global__ void read_past_dynamic(float* y) {
  SIMT_SHARED_DYN(raw);
  auto* const tile = reinterpret_cast<float*>(raw);
  tile[threadIdx.x] = 1.0F;
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x + 1];
}

TEST(PlantedBounds, DynamicSharedReadOnePastTheEnd) {
  if (!test::asan()) GTEST_SKIP() << "AddressSanitizer's";
  Memory<float> y(32, 0.0F);
  EXPECT_DEATH(launch(read_past_dynamic, {.grid = 1, .block = 32, .shared = 32 * sizeof(float)}, y.data()),
               "use-after-poison.*#0 [^\n]*read_past_dynamic[^\n]*planted_bugs_test.cpp");
}

__global__ void index_past_static(float* y) {
  SIMT_SHARED(float, tile, [64]);
  tile[threadIdx.x] = 0.0F;
  y[threadIdx.x] = tile[threadIdx.x + 33];
}

__global__ void point_past_static(float* y) {
  SIMT_SHARED(float, tile, [64]);
  float* const p = &tile[0];
  p[threadIdx.x] = 0.0F;
  p[threadIdx.x + 33] = y[threadIdx.x];
}

TEST(PlantedBounds, StaticSharedOnePastTheEnd) {
  Memory<float> y(32, 0.0F);
  if (test::asan()) {
    EXPECT_DEATH(launch(index_past_static, {.grid = 1, .block = 32}, y.data()),
                 "planted_bugs_test.cpp:.*index 64 out of bounds for type 'float \\[64\\]'");
    EXPECT_DEATH(launch(point_past_static, {.grid = 1, .block = 32}, y.data()),
                 "use-after-poison.*#0 [^\n]*point_past_static");
  } else {  // the red zone remembers
    expect_parts(fault_of([&] { launch(point_past_static, {.grid = 1, .block = 32}, y.data()); }),
                 {"a write beyond the end of the shared variable tile", "planted_bugs_test.cpp"});
  }
}

__global__ void load_misaligned(const float* x, float* y) {
  const float4 v = *reinterpret_cast<const float4*>(x + 1);
  y[threadIdx.x] = v.x;
}

TEST(PlantedBounds, MisalignedVectorLoad) {
  if (!test::asan()) GTEST_SKIP() << "UndefinedBehaviorSanitizer's";
  Memory<float> x(32, 0.0F), y(32, 0.0F);
  EXPECT_DEATH(
      launch(load_misaligned, {.grid = 1, .block = 1}, x.data(), y.data()),
      "planted_bugs_test.cpp:.*misaligned address .* for type 'const struct float4', which requires 16");
}

__global__ void large_local(float* y, int n) {
  volatile float local[1 << 17];
  for (int i = 0; i < n; ++i) local[i] = static_cast<float>(i);
  y[threadIdx.x] = local[n - 1];
}

TEST(PlantedBounds, LocalArrayLargerThanTheStack) {
  if (!test::asan()) GTEST_SKIP() << "AddressSanitizer's";
  Memory<float> y(32, 0.0F);
  EXPECT_DEATH(launch(large_local, {.grid = 1, .block = 1}, y.data(), 1 << 17),
               "stack-overflow.*large_local");
}

// --- memory that was never written: every build ---

__global__ void read_unwritten(float* y, int* z) {
  SIMT_SHARED(float, a, [32]);
  SIMT_SHARED(int, b, [32]);
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  y[i] = a[threadIdx.x];
  z[i] = b[threadIdx.x];
  a[threadIdx.x] = 0.0F;
  b[threadIdx.x] = 0;
}

TEST(PlantedBugs, SharedMemoryReadBeforeWritten) {
  Memory<float> y(64, 0.0F);
  Memory<int> z(64, 0);
  launch(read_unwritten, {.grid = 2, .block = 32}, y.data(), z.data());
  for (const float value : y.values()) EXPECT_TRUE(std::isnan(value));
  EXPECT_EQ(z.values(), std::vector<int>(64, -1));
}

template <bool kWaits>
__global__ void copy_ahead(const float* x, float* y) {
  using namespace cohort::kernels;
  SIMT_SHARED(float, tile, [2][128]);
  const int t = static_cast<int>(threadIdx.x) * 4;
  copy_async16(&tile[0][t], x + t);
  commit_async();
  copy_async16(&tile[1][t], x + 128 + t);
  commit_async();
  if constexpr (kWaits) wait_async<1>();
  float sum = tile[0][t] + tile[0][t + 3];
  if constexpr (kWaits) wait_async<0>();
  sum += tile[1][t];
  y[threadIdx.x] = sum;
}

TEST(PlantedBugs, AsynchronousCopyWithoutWait) {
  std::vector<float> values(256);
  for (int i = 0; i < 256; ++i) values[static_cast<std::size_t>(i)] = static_cast<float>(i);
  Memory<float> x(values), y(32, 0.0F);
  launch(copy_ahead<true>, {.grid = 1, .block = 32}, x.data(), y.data());
  EXPECT_EQ(y.values()[2], 8.0F + 11.0F + 136.0F);
  launch(copy_ahead<false>, {.grid = 1, .block = 32}, x.data(), y.data());
  EXPECT_TRUE(std::isnan(y.values()[2]));
}

// --- barriers and collectives that cannot complete: every build ---

constexpr int kBranchLine = __LINE__ + 3;
__global__ void barrier_in_two_branches() {
  if (threadIdx.x < 48) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

TEST(PlantedBugs, BarrierInTwoBranches) {
  expect_parts(fault_of([] { launch(barrier_in_two_branches, {.grid = 1, .block = 64}); }),
               {"divergent __syncthreads", "thread (48,0,0) [warp 1 lane 16] is at", here(kBranchLine + 2),
                "thread (0,0,0) [warp 0 lane 0] is at", here(kBranchLine), "(barrier_in_two_branches)",
                "in the launch at"});
}

__global__ void return_before_barrier() {
  if (threadIdx.x == 5) return;
  __syncthreads();
}

TEST(PlantedBugs, OneThreadReturnsBeforeTheBarrier) {
  expect_parts(fault_of([] { launch(return_before_barrier, {.grid = 1, .block = 64}); }),
               {"63 threads wait", "in __syncthreads", "1 threads returned", "thread (5,0,0)"});
}

__global__ void shuffle_in_two_branches(int* y) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < 16) {
    y[t] = __shfl_xor_sync(kFullMask, t, 1);
  } else {
    y[t] = __shfl_xor_sync(kFullMask, t, 2);
  }
}

TEST(PlantedBugs, FullMaskShuffleInTwoBranches) {
  Memory<int> y(32, 0);
  expect_parts(fault_of([&] { launch(shuffle_in_two_branches, {.grid = 1, .block = 32}, y.data()); }),
               {"divergent __shfl_xor_sync", "lane 16] is at", "lane 0] is at"});
}

__global__ void shuffle_in_one_branch(int* y) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < 16) y[t] = __shfl_xor_sync(kFullMask, t, 1);
}

__global__ void shuffle_or_barrier(int* y) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < 16) y[t] = __shfl_xor_sync(kFullMask, t, 1);
  __syncthreads();
}

TEST(PlantedBugs, FullMaskShuffleInOneBranch) {
  Memory<int> y(32, 0);
  expect_parts(fault_of([&] { launch(shuffle_in_one_branch, {.grid = 1, .block = 32}, y.data()); }),
               {"16 threads wait", "in __shfl_xor_sync", "16 threads returned"});
  expect_parts(fault_of([&] { launch(shuffle_or_barrier, {.grid = 1, .block = 32}, y.data()); }),
               {"32 threads wait", "in __shfl_xor_sync", "and 24 more"});
}

__global__ void read_outside_mask(int* y) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < 16) y[t] = __shfl_sync(0xffffU, t, 20);
}

__global__ void mask_without_self(int* y) {
  const int t = static_cast<int>(threadIdx.x);
  y[t] = __shfl_xor_sync(0xfffeU, t, 1);
}

__global__ void mask_of_absent_lanes(int* y) {
  const int t = static_cast<int>(threadIdx.x);
  y[t] = __shfl_xor_sync(kFullMask, t, 1);
}

__global__ void odd_width(int* y) {
  const int t = static_cast<int>(threadIdx.x);
  y[t] = __shfl_xor_sync(kFullMask, t, 1, 24);
}

TEST(PlantedBugs, Masks) {
  Memory<int> y(32, 0);
  expect_parts(fault_of([&] { launch(read_outside_mask, {.grid = 1, .block = 32}, y.data()); }),
               {"__shfl_sync reads lane 20, which is not in the mask", "thread (0,0,0)"});
  expect_parts(fault_of([&] { launch(mask_without_self, {.grid = 1, .block = 32}, y.data()); }),
               {"whose mask lacks the calling lane", "lane 0]"});
  expect_parts(fault_of([&] { launch(mask_of_absent_lanes, {.grid = 1, .block = 24}, y.data()); }),
               {"names lanes that the block does not have"});
  expect_parts(fault_of([&] { launch(odd_width, {.grid = 1, .block = 32}, y.data()); }),
               {"a width that is no power of two"});
}

// --- launches ---

__global__ void trap_in_second_block() {
  if (blockIdx.x == 1 && threadIdx.x == 3) __trap();
  __syncthreads();
}

__global__ void nothing(int) {}

__global__ void nested() {
  launch(nothing, {.grid = 1, .block = 1}, 1);
}

__global__ void large_static(float* y) {
  SIMT_SHARED(float, a, [8192]);
  SIMT_SHARED(float, b, [4097]);
  y[0] = a[0] + b[0];
}

TEST(PlantedBugs, Launches) {
  Memory<float> y(1, 0.0F);
  expect_parts(fault_of([] { launch(trap_in_second_block, {.grid = 2, .block = 32}); }),
               {"__trap()", "block (1,0,0) thread (3,0,0)"});
  expect_parts(fault_of([] { launch(nothing, {.grid = 1, .block = 1025}, 1); }), {"1025 threads"});
  expect_parts(fault_of([] { launch(nothing, {.grid = {1, 70000, 1}, .block = 32}, 1); }), {"a grid larger"});
  expect_parts(fault_of([] { launch(nothing, {.grid = 1, .block = 32, .shared = 170000}, 1); }), {"163 KiB"});
  expect_parts(fault_of([&] { launch(large_static, {.grid = 1, .block = 1}, y.data()); }),
               {"48 KiB", "variable b"});
  launch(nothing, {.grid = {4, 0, 1}, .block = 32}, 1);  // no work
}

TEST(PlantedBugs, ALaunchInsideAKernel) {
  expect_parts(fault_of([] { launch(nested, {.grid = 1, .block = 1}); }), {"a kernel launches a kernel"});
}

// --- blocks that wait for each other ---

// One block may never come, and every block may be missing a thread.
__global__ void wait_for_blocks(unsigned* word, unsigned without_block, unsigned without_thread) {
  if (blockIdx.x == without_block || threadIdx.x == without_thread) return;
  cohort::kernels::grid_barrier(word);
}
constexpr unsigned kNobody = 1000;

TEST(PlantedBugs, ABlockThatNeverComesToTheGridBarrier) {
  const auto launch_without = [](unsigned block, unsigned thread) {
    Memory<unsigned> word(1, 0U);
    return fault_of([&] {
      launch(wait_for_blocks, {.grid = 3, .block = 64, .cooperative = true}, word.data(), block, thread);
    });
  };
  for (const Schedule& schedule : test::all_schedules()) {
    const ScopedSchedule scope(schedule);
    SCOPED_TRACE(to_string(schedule));
    const std::string text = launch_without(1, kNobody);
    expect_parts(text, {"128 threads wait", "block (0,0,0) thread (0,0,0) [warp 0 lane 0] is at",
                        "grid_barrier.cuh", "in __nanosleep", "block (2,0,0) thread (0,0,0)",
                        "64 threads returned, the first: block (1,0,0)", "planted_bugs_test.cpp"});
    EXPECT_EQ(text.find("not cooperative"), std::string::npos);
    expect_parts(launch_without(kNobody, 5), {"189 threads wait", "in __syncthreads", "3 threads returned"});
  }
  // Fibers and memory are clean.
  Memory<unsigned> fresh(1, 0U);
  launch(wait_for_blocks, {.grid = 3, .block = 64, .cooperative = true}, fresh.data(), kNobody, kNobody);
  EXPECT_EQ(fresh.values()[0], 0x80000000U);
}

TEST(PlantedBugs, AGridBarrierInALaunchThatIsNotCooperative) {
  for (const Schedule& schedule : test::all_schedules()) {
    const ScopedSchedule scope(schedule);
    Memory<unsigned> word(1, 0U);
    expect_parts(
        fault_of([&] { launch(wait_for_blocks, {.grid = 2, .block = 32}, word.data(), kNobody, kNobody); }),
        {"in __nanosleep", "the launch is not cooperative: no block of it may wait for another one"});
  }
}

__global__ void write_past_own_end(int* y) {
  SIMT_SHARED(int, tile, [32]);
  int* const p = &tile[0];
  p[threadIdx.x + (blockIdx.x == 1 ? 1 : 0)] = static_cast<int>(blockIdx.x);
  __syncthreads();
  y[blockIdx.x * 32 + threadIdx.x] = tile[threadIdx.x];
}

// Shared memory of blocks that are under way together: each has its own, between red zones.
TEST(PlantedBugs, SharedMemoryOfACooperativeLaunch) {
  if (test::asan()) GTEST_SKIP() << "dies, as StaticSharedOnePastTheEnd does";
  Memory<int> y(96, -1);
  expect_parts(
      fault_of([&] { launch(write_past_own_end, {.grid = 3, .block = 32, .cooperative = true}, y.data()); }),
      {"a write beyond the end of the shared variable tile"});
}

TEST(PlantedBugs, ACooperativeLaunchThatDoesNotFit) {
  Memory<unsigned> word(1, 0U);
  const LaunchConfig config{.grid = 1, .block = 512, .shared = 96 * 1024, .cooperative = true};
  const unsigned most = resident_blocks(wait_for_blocks, config);
  EXPECT_LE(most, 100U);
  EXPECT_GT(most, 1U);
  LaunchConfig larger = config;
  larger.grid = most + 1;
  try {
    launch(wait_for_blocks, larger, word.data(), kNobody, kNobody);
    ADD_FAILURE() << "the launch was accepted";
  } catch (const cohort::Error& error) {
    expect_parts(error.what(), {"planted_bugs_test.cpp", std::to_string(cudaErrorCooperativeLaunchTooLarge)});
  }
  larger.cooperative = false;  // then nobody waits for room
  larger.shared = 0;
  launch(nothing, larger, 1);
  // As on the smallest device: blocks of 160 threads with 20 KiB share a multiprocessor in threes.
  EXPECT_EQ(nominal_resident_blocks({.block = 160, .shared = 20 * 1024}), 300U);
  EXPECT_EQ(nominal_resident_blocks({.block = 512, .shared = 96 * 1024}), 100U);
  EXPECT_EQ(nominal_resident_blocks({.block = 128, .shared = 96 * 1024}), 100U);
  EXPECT_EQ(nominal_resident_blocks({.block = 1024, .shared = 0}), 0U);
}

// Captured, and replayed as often as one likes: the word needs no reset.
TEST(CooperativeLaunch, IsCapturedAndReplayed) {
  Memory<unsigned> word(1, 0U);
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, 0), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
  for (const unsigned blocks : {4U, 3U}) {
    launch(wait_for_blocks, {.grid = blocks, .block = 32, .stream = stream, .cooperative = true}, word.data(),
           kNobody, kNobody);
  }
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  EXPECT_EQ(count_nodes(exec).kernels, 2);
  for (int replay = 0; replay < 3; ++replay) EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(word.values()[0], 0U);  // turned six times
  ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

// Errors leave nothing behind: the fibers are clean and the next launch is right.
TEST(PlantedBugs, TheProcessGoesOnAfterManyErrors) {
  Memory<int> y(32, 0);
  const int rounds = test::tsan() ? 20 : 250;
  for (int i = 0; i < rounds; ++i) {
    EXPECT_NE(fault_of([] { launch(barrier_in_two_branches, {.grid = 1, .block = 64}); }), "");
    EXPECT_NE(fault_of([] { launch(return_before_barrier, {.grid = 3, .block = 64}); }), "");
    EXPECT_NE(fault_of([&] { launch(read_outside_mask, {.grid = 1, .block = 32}, y.data()); }), "");
  }
  std::vector<float> values(256, 1.0F);
  Memory<float> x(values), z(32, 0.0F);
  launch(copy_ahead<true>, {.grid = 1, .block = 32}, x.data(), z.data());
  EXPECT_EQ(z.values(), std::vector<float>(32, 3.0F));
}

TEST(Schedules, HaveNames) {
  for (const Schedule& schedule : test::all_schedules()) {
    const Schedule again = parse_schedule(to_string(schedule));
    EXPECT_EQ(again.order, schedule.order);
    EXPECT_EQ(again.seed, schedule.seed);
  }
  for (const char* wrong : {"", "sideways", "random", "random:", "random:x", "random:12345678901234567890"}) {
    EXPECT_THROW(parse_schedule(wrong), std::invalid_argument) << wrong;
  }
}

}  // namespace
}  // namespace simt
