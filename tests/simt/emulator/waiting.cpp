// Where threads wait for each other: barriers, collectives, and what is said when they cannot go on.
#include <algorithm>
#include <bit>

#include "simt/emulator/scheduler.h"

namespace simt::detail {
namespace {

std::string triple(unsigned x, unsigned y, unsigned z) {
  return "(" + std::to_string(x) + "," + std::to_string(y) + "," + std::to_string(z) + ")";
}

std::string text(const Site& site) {
  return std::string(site.file) + ":" + std::to_string(site.line) + " (" + site.function + ")";
}

bool same_site(const Site& a, const Site& b) {
  return a.line == b.line && std::string_view(a.file) == std::string_view(b.file);
}

}  // namespace

std::string Scheduler::where(const Block& block, int thread) {
  const uint3& b = block.index;
  const uint3& i = block.threads[static_cast<std::size_t>(thread)].index;
  return "block " + triple(b.x, b.y, b.z) + " thread " + triple(i.x, i.y, i.z) + " [warp " +
         std::to_string(thread / kWarpSize) + " lane " + std::to_string(thread % kWarpSize) + "]";
}

std::string Scheduler::at(const Block& block, int thread) {
  return where(block, thread) + " is at " + text(block.threads[static_cast<std::size_t>(thread)].site);
}

std::string Scheduler::launch_site() const {
  return std::string("  in the launch at ") + config_->file + ":" + std::to_string(config_->line);
}

void Scheduler::fail(const std::string& what) {
  if (fault_.empty()) fault_ = what;
  throw Unwind{};
}

void Scheduler::fail_at(const std::string& what, const Site& site) {
  fail(what + ": " + where(*block_, current_) + " is at " + text(site));
}

int Scheduler::block_barrier(BlockOp op, int predicate, const Site& site) {
  const int self = current_;
  Block& block = *block_;
  Thread& t = block.threads[static_cast<std::size_t>(self)];
  t.site = site;
  t.block_op = op;
  t.predicate = predicate;
  if (block.num_at_block == 0) {
    block.first_at_block = self;
  } else if (!same_site(site, block.threads[static_cast<std::size_t>(block.first_at_block)].site)) {
    fail("divergent __syncthreads: " + at(block, self) + "\nwhile " + at(block, block.first_at_block));
  }
  const unsigned barrier = block.barrier;
  order_.arrive_block(barrier);
  t.state = State::kAtBlock;
  if (++block.num_at_block == num_threads_) complete_block_barrier();
  wait(State::kReady);  // the state is set above: completion may have made this thread ready
  order_.leave_block(barrier);
  return static_cast<int>(t.result);
}

void Scheduler::complete_block_barrier() {
  Block& block = *block_;
  Thread* const threads = block.threads.data();
  int count = 0;
  for (int i = 0; i < num_threads_; ++i) count += threads[i].predicate != 0 ? 1 : 0;
  const BlockOp op = threads[block.first_at_block].block_op;
  int result = count;
  if (op == BlockOp::kAnd) result = count == num_threads_ ? 1 : 0;
  if (op == BlockOp::kOr) result = count > 0 ? 1 : 0;
  for (int i = 0; i < num_threads_; ++i) {
    threads[i].result = static_cast<std::uint64_t>(result);
    make_ready(block, i);
  }
  block.num_at_block = 0;
  ++block.barrier;
}

void Scheduler::sleep(const Site& site) {
  block_->threads[static_cast<std::size_t>(current_)].site = site;
  wait(State::kAsleep);
}

std::uint64_t Scheduler::warp_collective(const LaneRequest& request, const Site& site) {
  const int self = current_;
  const int warp = self / kWarpSize, lane = self % kWarpSize;
  const char* const name = name_of(request.op);
  const int lanes = num_threads_ - warp * kWarpSize;
  if ((request.mask >> lane & 1U) == 0)
    fail_at(std::string(name) + " whose mask lacks the calling lane", site);
  if (lanes < kWarpSize && request.mask >> lanes != 0) {
    fail_at(std::string(name) + " whose mask names lanes that the block does not have", site);
  }
  if (request.width < 1 || request.width > kWarpSize ||
      !std::has_single_bit(static_cast<unsigned>(request.width))) {
    fail_at(std::string(name) + " with a width that is no power of two up to 32", site);
  }
  Thread* const threads = block_->threads.data();
  Thread& t = threads[self];
  t.site = site;
  t.request = request;
  if (is_shuffle(request.op)) {
    const int source = shuffle_source(request, lane);
    if ((request.mask >> source & 1U) == 0) {
      fail_at(std::string(name) + " reads lane " + std::to_string(source) + ", which is not in the mask",
              site);
    }
  }
  unsigned arrived = 0;
  for (int i = 0; i < (lanes < kWarpSize ? lanes : kWarpSize); ++i) {
    const int other = warp * kWarpSize + i;
    const Thread& o = threads[other];
    if (o.state != State::kAtWarp || o.request.mask != request.mask) continue;
    if (o.request.op != request.op || !same_site(o.site, site)) {
      fail(std::string("divergent ") + name + ": " + at(*block_, self) + "\nwhile " + at(*block_, other) +
           " in " + name_of(o.request.op));
    }
    arrived |= 1U << i;
  }
  const int first_lane = std::countr_zero(request.mask);
  const bool orders_memory = request.op == WarpOp::kSync;
  if (orders_memory) order_.arrive_warp(warp, first_lane);
  t.state = State::kAtWarp;
  if ((arrived | 1U << lane) == request.mask) {
    if (orders_memory) order_.complete_warp(warp, first_lane);
    complete_warp_collective(warp, request.mask);
  }
  wait(State::kReady);
  if (orders_memory) order_.leave_warp(warp, first_lane);
  return t.result;
}

void Scheduler::complete_warp_collective(int warp, unsigned mask) {
  Thread* const lanes = &block_->threads[static_cast<std::size_t>(warp * kWarpSize)];
  std::uint64_t values[kWarpSize] = {};
  for (int i = 0; i < kWarpSize; ++i) {
    if (mask >> i & 1U) values[i] = lanes[i].request.value;
  }
  const WarpOp op = lanes[std::countr_zero(mask)].request.op;
  const bool shuffle = is_shuffle(op);
  const std::uint64_t common = shuffle || op == WarpOp::kSync ? 0 : combine(op, mask, values);
  for (int i = 0; i < kWarpSize; ++i) {
    if ((mask >> i & 1U) == 0) continue;
    lanes[i].result = shuffle ? values[shuffle_source(lanes[i].request, i)] : common;
    make_ready(*block_, warp * kWarpSize + i);
  }
}

// Up to `most` threads that wait, those that poll first: they stand for the others of their block.
std::string Scheduler::list_waiting(const Block& block, int most) {
  std::string list;
  for (const bool asleep : {true, false}) {
    for (std::size_t i = 0; i < block.threads.size() && most > 0; ++i) {
      const Thread& t = block.threads[i];
      if (t.fiber == nullptr || (t.state == State::kAsleep) != asleep) continue;
      list += "\n  " + at(block, static_cast<int>(i)) + " in ";
      list += asleep ? "__nanosleep" : t.state == State::kAtBlock ? "__syncthreads" : name_of(t.request.op);
      --most;
    }
  }
  return list;
}

// No thread can run and some have not ended: says who waits where, and who returned.
void Scheduler::report_stuck() {
  constexpr int kMaxListed = 8;
  const int each = std::max(1, kMaxListed / static_cast<int>(num_blocks_));
  int waiting = 0, listed = 0, returned = 0;
  std::string list, first;
  for (std::size_t slot = 0; slot < num_blocks_; ++slot) {
    const Block& block = *blocks_[slot];
    const int waits = num_threads_ - block.num_done;
    waiting += waits;
    returned += block.num_done;
    const int lines = std::min({waits, each, kMaxListed - listed});
    list += list_waiting(block, lines);
    listed += lines;
    for (int i = 0; i < num_threads_ && first.empty(); ++i) {
      if (block.threads[static_cast<std::size_t>(i)].state == State::kDone) first = where(block, i);
    }
  }
  fault_ = std::to_string(waiting) + " threads wait for others that never come:" + list;
  if (waiting > listed) fault_ += "\n  and " + std::to_string(waiting - listed) + " more";
  if (returned > 0) fault_ += "\n" + std::to_string(returned) + " threads returned, the first: " + first;
  if (!sleepers_.empty() && !config_->cooperative && num_blocks(*config_) > 1) {
    fault_ += "\nthe launch is not cooperative: no block of it may wait for another one";
  }
}

void Scheduler::fence() {
  order_.fence(static_cast<std::size_t>(current_));
}

void Scheduler::note_atomic(const void* address) {
  if (!order_.atomic(static_cast<std::size_t>(current_), address)) {
    fail("more atomic accesses after fences than the race detector remembers");
  }
}

void* Scheduler::shared_variable(const void* key, std::size_t size, std::size_t alignment, const char* name) {
  const char* error = nullptr;
  void* const memory = memory_.variable(block_->memory, key, size, alignment, name, &error);
  if (error != nullptr) fail(std::string(error) + ": variable " + name + ", " + where(*block_, current_));
  return memory;
}

unsigned char* Scheduler::dynamic_shared() {
  const char* error = nullptr;
  void* const memory = memory_.dynamic(block_->memory, &error);
  if (error != nullptr) fail(std::string(error) + ": " + where(*block_, current_));
  return static_cast<unsigned char*>(memory);
}

}  // namespace simt::detail
