// The emulator as its headers see it: what a CUDA thread asks the scheduler for. Not for kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "kernels/cuda/launch_config.cuh"

namespace simt::detail {

// Where in the source a thread is.
struct Site {
  const char* file;
  int line;
  const char* function;
};

enum class BlockOp : std::uint8_t { kSync, kCount, kAnd, kOr };

enum class WarpOp : std::uint8_t {
  kSync,
  kShuffle,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kBallot,
  kAny,
  kAll,
  kAddUnsigned,
  kMinUnsigned,
  kMaxUnsigned,
  kMinSigned,
  kMaxSigned,
  kAndBits,
  kOrBits,
  kXorBits
};

// Whether the statement at this site is the one that the environment's SIMT_LEAVE_OUT=FILE:LINE names (FILE:
// the path or its end). Says so on stderr the first time: a statement that no test reaches is left out in
// vain.
bool left_out(const Site& site);

// Kernels launch no kernels.
void refuse_in_kernel(const LaunchConfig& config);

// "file:line" of the launch; lives as long as the process.
const char* launch_name(const LaunchConfig& config);
[[noreturn]] void launch_failed(const LaunchConfig& config, int cuda_status);

inline std::size_t num_blocks(const LaunchConfig& config) {
  return std::size_t{config.grid.x} * config.grid.y * config.grid.z;
}

// Blocks that the emulated device runs at the same time: as many as any GPU, unless their threads are more
// than the emulator holds.
unsigned resident_blocks(const LaunchConfig& config);

// Runs every thread of the grid to its end, in the order of the schedule; throws Fault on an error of the
// kernel.
void run_grid(const LaunchConfig& config, const std::function<void()>& thread);

// The calling thread waits until all threads of its block have called; returns the combined predicate.
int block_barrier(BlockOp op, int predicate, const Site& site);

// The calling lane waits until all lanes of `mask` have called with the same mask, operation and site.
// lane: source lane, delta or lane mask of a shuffle; width: of a shuffle.
std::uint64_t warp_collective(WarpOp op, unsigned mask, std::uint64_t value, int lane, int width,
                              const Site& site);

// The calling thread looks again later, when all others have gone on as far as they can.
void sleep(const Site& site);

void fence();
void note_atomic(const void* address);  // an atomic access was made; only the race detector listens

// Shared memory of the block that runs: one variable per key, the same for all threads.
void* shared_variable(const void* key, std::size_t size, std::size_t alignment, const char* name);
unsigned char* dynamic_shared();

// cp.async of the running thread: the accesses themselves are made by the caller, for the sanitizers to see.
void push_async_copy(void* shared, const void* global);
void commit_async_copies();
bool pop_async_copy(int newest, void** shared, const void** global);

// An error found in the calling thread: ends the launch.
[[noreturn]] void fail(const char* what, const Site& site);

}  // namespace simt::detail
