// The order between CUDA threads, as the race detector is told it: launch start and end, __syncthreads,
// __syncwarp, and fence + atomic + fence. Nothing else orders memory; a shuffle does not. Without
// ThreadSanitizer all of this is empty.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt::detail {

class RaceOrder {
 public:
  RaceOrder();

  void begin_launch(std::size_t threads_per_block, std::size_t blocks_at_once);
  void end_launch();
  // block: place in the order in which blocks begin; slot: among those that are under way at the same time.
  void begin_block(std::size_t block, std::size_t slot);
  // A thread of this block runs next.
  void enter_block(std::size_t block, std::size_t slot);

  void begin_thread();
  void end_thread();

  // A barrier uses two tokens in turn: a thread already at the next one must not be seen by a late leaver of
  // this one.
  void arrive_block(unsigned barrier);
  void leave_block(unsigned barrier);

  // Everybody releases the first token; the last one acquires it and releases the second; everybody acquires
  // that.
  void arrive_warp(int warp, int first_lane);
  void complete_warp(int warp, int first_lane);
  void leave_warp(int warp, int first_lane);

  // Thread `thread` of the block: a fence, and an atomic access. An atomic after a fence publishes what was
  // before the fence; a fence after an atomic on the same word receives it. atomic() is false when its table
  // is full.
  void fence(std::size_t thread);
  [[nodiscard]] bool atomic(std::size_t thread, const void* address);

 private:
  struct Publisher {  // a thread that made an atomic access to a word after a fence
    const void* address;
    std::size_t token;
  };
  struct ThreadState {
    static constexpr int kMaxPending = 16;
    const void* pending[kMaxPending];  // words accessed since the last fence
    int num_pending = 0;
    bool fenced = false;
  };
  static constexpr std::size_t kMaxPublishers = 1 << 16;

  ThreadState& state_of(std::size_t thread) const { return threads_[slot_ * threads_per_block_ + thread]; }
  void* block_token(std::size_t index) const;
  void* warp_token(int warp, int lane, int which) const;
  void* fence_token(std::size_t global_thread) const;

  bool on_ = false;
  char* tokens_ = nullptr;        // addresses only, never touched
  char* fence_tokens_ = nullptr;  // likewise
  Publisher* publishers_ = nullptr;
  std::size_t num_publishers_ = 0;
  ThreadState* threads_ = nullptr;  // [slot][thread]
  std::size_t num_threads_ = 0;
  std::size_t threads_per_block_ = 0;
  std::size_t block_ = 0, slot_ = 0;
  char launch_begin_ = 0, launch_end_ = 0;
};

}  // namespace simt::detail
