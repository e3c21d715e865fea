// Runs a grid: blocks one after the other, each CUDA thread a fiber, switched only where threads wait for
// each other.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "simt/emulator/async_copies.h"
#include "simt/emulator/block_memory.h"
#include "simt/emulator/cuda_globals.h"
#include "simt/emulator/engine.h"
#include "simt/emulator/fiber.h"
#include "simt/emulator/race_order.h"
#include "simt/emulator/schedule.h"
#include "simt/emulator/warp.h"

namespace simt::detail {

class Scheduler {
 public:
  static Scheduler& instance();

  void run(const LaunchConfig& config, const std::function<void()>& body);

  bool in_kernel() const { return current_ >= 0; }
  int widest_block() const { return widest_block_; }

  // What the running thread asks for.
  int block_barrier(BlockOp op, int predicate, const Site& site);
  std::uint64_t warp_collective(const LaneRequest& request, const Site& site);
  void fence();
  void note_atomic(const void* address);
  void* shared_variable(const void* key, std::size_t size, std::size_t alignment, const char* name);
  unsigned char* dynamic_shared();
  AsyncCopies& async_copies() { return async_copies_[static_cast<std::size_t>(current_)]; }
  [[noreturn]] void fail(const std::string& what);
  [[noreturn]] void fail_at(const std::string& what, const Site& site);

 private:
  static constexpr int kMaxThreads = 1024;
  static constexpr int kMaxWarps = kMaxThreads / kWarpSize;

  enum class State : std::uint8_t { kReady, kAtBlock, kAtWarp, kDone };
  struct Thread {
    State state;
    Fiber* fiber;  // null before the first and after the last step
    uint3 index;
    Site site;  // where it waits
    BlockOp block_op;
    int predicate;
    LaneRequest request;
    std::uint64_t result;
  };
  struct Unwind {};  // thrown through a kernel to end its thread

  void check_limits() const;
  std::vector<std::size_t> block_order();
  void run_block(std::size_t block);
  int pick_thread();
  void step(int thread);
  static void enter(void* scheduler);
  void wait(State state);
  void make_ready(int thread);
  void complete_block_barrier();
  void complete_warp_collective(int warp, unsigned mask);
  void unwind_all();
  void report_stuck();
  Fiber* take_fiber(int thread);
  void give_fiber(int thread);
  std::string where(int thread) const;
  std::string at(int thread) const;
  std::string launch_site() const;
  std::uint64_t random();

  const LaunchConfig* config_ = nullptr;  // of the running launch
  const std::function<void()>* body_ = nullptr;
  Schedule schedule_;
  std::uint64_t random_state_ = 0;
  std::string fault_;
  bool aborting_ = false;

  std::array<Thread, kMaxThreads> threads_{};
  std::vector<AsyncCopies> async_copies_ = std::vector<AsyncCopies>(kMaxThreads);
  std::array<unsigned, kMaxWarps> ready_{};  // lanes of each warp that can run
  unsigned ready_warps_ = 0;
  int num_threads_ = 0, num_warps_ = 0, num_done_ = 0, num_at_block_ = 0;
  int widest_block_ = 1;
  int first_at_block_ = 0;
  int current_ = -1;
  unsigned barrier_ = 0;  // number of the block barrier being gathered

  BlockMemory memory_;
  RaceOrder order_;
  std::vector<Fiber*> free_fibers_;
  // The race detector tells CUDA threads apart by their fibers, and thread i of neighbouring blocks must
  // differ.
  std::array<std::array<Fiber*, kMaxThreads>, 2> fixed_fibers_{};
  unsigned parity_ = 0;
};

}  // namespace simt::detail
