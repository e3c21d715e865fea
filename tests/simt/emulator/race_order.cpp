#include "simt/emulator/race_order.h"

#include <sys/mman.h>

#include <new>

#include "simt/emulator/sanitizers.h"

namespace simt::detail {
namespace {

constexpr std::size_t kTokenBytes = 8;
constexpr std::size_t kTokensPerBlock = 4096;  // 2 of the block, 2 x 32 x 32 of its warps
constexpr std::size_t kTokenRegion = std::size_t{8} << 30;

char* reserve(std::size_t bytes) {
  void* const memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return static_cast<char*>(memory);
}

}  // namespace

RaceOrder::RaceOrder() : on_(with_tsan()) {
  if (!on_) return;
  tokens_ = reserve(kTokenRegion);
  fence_tokens_ = reserve(kTokenRegion);
  publishers_ = new Publisher[kMaxPublishers];
}

// Blocks of one launch share no token (up to the size of the region, beyond which a race may be missed, never
// invented).
void* RaceOrder::block_token(std::size_t index) const {
  return tokens_ + (block_ * kTokensPerBlock + index) * kTokenBytes % kTokenRegion;
}

void* RaceOrder::warp_token(int warp, int lane, int which) const {
  return block_token(2 + static_cast<std::size_t>((warp * 32 + lane) * 2 + which));
}

void* RaceOrder::fence_token(std::size_t global_thread) const {
  return fence_tokens_ + global_thread * kTokenBytes % kTokenRegion;
}

void RaceOrder::begin_launch(std::size_t threads_per_block, std::size_t blocks_at_once) {
  threads_per_block_ = threads_per_block;
  num_publishers_ = 0;
  if (on_ && num_threads_ < threads_per_block * blocks_at_once) {
    delete[] threads_;
    num_threads_ = threads_per_block * blocks_at_once;
    threads_ = new ThreadState[num_threads_];
  }
  release(&launch_begin_);
}

void RaceOrder::end_launch() {
  acquire(&launch_end_);
}

void RaceOrder::begin_block(std::size_t block, std::size_t slot) {
  enter_block(block, slot);
  if (!on_) return;
  for (std::size_t i = 0; i < threads_per_block_; ++i) {
    state_of(i).num_pending = 0;
    state_of(i).fenced = false;
  }
}

void RaceOrder::enter_block(std::size_t block, std::size_t slot) {
  block_ = block;
  slot_ = slot;
}

void RaceOrder::begin_thread() {
  acquire(&launch_begin_);
}
void RaceOrder::end_thread() {
  release(&launch_end_);
}

void RaceOrder::arrive_block(unsigned barrier) {
  if (on_) release(block_token(barrier & 1U));
}
void RaceOrder::leave_block(unsigned barrier) {
  if (on_) acquire(block_token(barrier & 1U));
}

void RaceOrder::arrive_warp(int warp, int first_lane) {
  if (on_) release(warp_token(warp, first_lane, 0));
}
void RaceOrder::complete_warp(int warp, int first_lane) {
  if (!on_) return;
  acquire(warp_token(warp, first_lane, 0));
  release(warp_token(warp, first_lane, 1));
}
void RaceOrder::leave_warp(int warp, int first_lane) {
  if (on_) acquire(warp_token(warp, first_lane, 1));
}

void RaceOrder::fence(std::size_t thread) {
  if (!on_) return;
  ThreadState& state = state_of(thread);
  const std::size_t self = block_ * threads_per_block_ + thread;
  for (int i = 0; i < state.num_pending; ++i) {
    for (std::size_t p = 0; p < num_publishers_; ++p) {
      if (publishers_[p].address == state.pending[i] && publishers_[p].token != self) {
        acquire(fence_token(publishers_[p].token));
      }
    }
  }
  state.num_pending = 0;
  state.fenced = true;
  release(fence_token(self));
}

bool RaceOrder::atomic(std::size_t thread, const void* address) {
  if (!on_) return true;
  ThreadState& state = state_of(thread);
  bool known = false;
  for (int i = 0; i < state.num_pending; ++i) known = known || state.pending[i] == address;
  if (!known) {
    // Words beyond the table are forgotten oldest first: who fences reads the word it touched last.
    if (state.num_pending == ThreadState::kMaxPending) {
      for (int i = 1; i < ThreadState::kMaxPending; ++i) state.pending[i - 1] = state.pending[i];
      --state.num_pending;
    }
    state.pending[state.num_pending++] = address;
  }
  if (!state.fenced) return true;
  const std::size_t self = block_ * threads_per_block_ + thread;
  for (std::size_t p = 0; p < num_publishers_; ++p) {
    if (publishers_[p].address == address && publishers_[p].token == self) return true;
  }
  if (num_publishers_ == kMaxPublishers) return false;
  publishers_[num_publishers_++] = {address, self};
  return true;
}

}  // namespace simt::detail
