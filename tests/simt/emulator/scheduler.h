// Runs a grid: blocks one after the other, or all of a cooperative launch at once; each CUDA thread a fiber,
// switched only where threads wait for each other.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
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
  // Of a cooperative launch. A fiber takes two of the 65,530 memory mappings of a process; ThreadSanitizer
  // knows 8,128 threads.
  static std::size_t max_threads_at_once();

  // What the running thread asks for.
  int block_barrier(BlockOp op, int predicate, const Site& site);
  std::uint64_t warp_collective(const LaneRequest& request, const Site& site);
  void sleep(const Site& site);
  void fence();
  void note_atomic(const void* address);
  void* shared_variable(const void* key, std::size_t size, std::size_t alignment, const char* name);
  unsigned char* dynamic_shared();
  AsyncCopies& async_copies() { return block_->async_copies[static_cast<std::size_t>(current_)]; }
  [[noreturn]] void fail(const std::string& what);
  [[noreturn]] void fail_at(const std::string& what, const Site& site);

 private:
  static constexpr int kMaxThreads = 1024;
  static constexpr int kMaxWarps = kMaxThreads / kWarpSize;

  static constexpr int kMaxIdleRounds = 1000;

  enum class State : std::uint8_t { kReady, kAtBlock, kAtWarp, kAsleep, kDone };
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
  // One that is under way.
  struct Block {
    uint3 index;
    std::size_t place;   // in the order in which blocks begin
    std::size_t slot;    // its number in blocks_
    std::size_t fibers;  // its row of fixed_fibers_
    std::vector<Thread> threads;
    std::vector<AsyncCopies> async_copies;
    std::array<unsigned, kMaxWarps> ready;  // lanes of each warp that can run
    unsigned ready_warps;
    int num_done, num_at_block, first_at_block;
    unsigned barrier;  // number of the block barrier being gathered
    BlockMemory::Block memory;
  };
  struct Sleeper {
    Block* block;
    int thread;
  };
  struct Unwind {};  // thrown through a kernel to end its thread

  void check_limits() const;
  std::vector<std::size_t> block_order();
  void begin_block(Block& block, std::size_t number, std::size_t place);
  void run_blocks();
  void end_block(Block& block);
  void enter(Block& block);
  bool pick_block();
  bool wake();
  int pick_thread();
  void step(int thread);
  static void begin_thread(void* scheduler);
  void wait(State state);
  static void make_ready(Block& block, int thread);
  void complete_block_barrier();
  void complete_warp_collective(int warp, unsigned mask);
  void unwind_all();
  void report_stuck();
  Fiber* take_fiber(int thread);
  void give_fiber(int thread);
  static std::string where(const Block& block, int thread);
  static std::string at(const Block& block, int thread);
  static std::string list_waiting(const Block& block, int most);
  std::string launch_site() const;
  std::uint64_t random();

  const LaunchConfig* config_ = nullptr;  // of the running launch
  const std::function<void()>* body_ = nullptr;
  Schedule schedule_;
  std::uint64_t random_state_ = 0;
  std::string fault_;
  bool aborting_ = false;

  std::vector<std::unique_ptr<Block>> blocks_;
  std::size_t num_blocks_ = 0, num_running_ = 0;  // under way at the same time; of these, not at their end
  Block* block_ = nullptr;                        // whose thread runs
  std::vector<Sleeper> sleepers_;
  int idle_rounds_ =
      0;  // times that sleepers have been woken, one after the other, and did nothing but sleep
  int num_threads_ = 0, num_warps_ = 0;
  int widest_block_ = 1;
  int current_ = -1;

  BlockMemory memory_;
  RaceOrder order_;
  std::vector<Fiber*> free_fibers_;
  // The race detector tells CUDA threads apart by their fibers, and thread i of neighbouring blocks must
  // differ, whether one follows the other (then there are two rows) or both are under way (a row per slot).
  std::vector<std::vector<Fiber*>> fixed_fibers_;
  unsigned parity_ = 0;
};

}  // namespace simt::detail
