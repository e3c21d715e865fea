// Where threads wait for each other: barriers, collectives, and what is said when they cannot go on.
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

std::string Scheduler::where(int thread) const {
  const uint3& i = threads_[thread].index;
  return "block " + triple(blockIdx.x, blockIdx.y, blockIdx.z) + " thread " + triple(i.x, i.y, i.z) +
         " [warp " + std::to_string(thread / kWarpSize) + " lane " + std::to_string(thread % kWarpSize) + "]";
}

std::string Scheduler::at(int thread) const {
  return where(thread) + " is at " + text(threads_[thread].site);
}

std::string Scheduler::launch_site() const {
  return std::string("  in the launch at ") + config_->file + ":" + std::to_string(config_->line);
}

void Scheduler::fail(const std::string& what) {
  if (fault_.empty()) fault_ = what;
  throw Unwind{};
}

void Scheduler::fail_at(const std::string& what, const Site& site) {
  fail(what + ": " + where(current_) + " is at " + text(site));
}

int Scheduler::block_barrier(BlockOp op, int predicate, const Site& site) {
  const int self = current_;
  Thread& t = threads_[self];
  t.site = site;
  t.block_op = op;
  t.predicate = predicate;
  if (num_at_block_ == 0) {
    first_at_block_ = self;
  } else if (!same_site(site, threads_[first_at_block_].site)) {
    fail("divergent __syncthreads: " + at(self) + "\nwhile " + at(first_at_block_));
  }
  const unsigned barrier = barrier_;
  order_.arrive_block(barrier);
  t.state = State::kAtBlock;
  if (++num_at_block_ == num_threads_) complete_block_barrier();
  wait(State::kReady);  // the state is set above: completion may have made this thread ready
  order_.leave_block(barrier);
  return static_cast<int>(t.result);
}

void Scheduler::complete_block_barrier() {
  int count = 0;
  for (int i = 0; i < num_threads_; ++i) count += threads_[i].predicate != 0 ? 1 : 0;
  const BlockOp op = threads_[first_at_block_].block_op;
  int result = count;
  if (op == BlockOp::kAnd) result = count == num_threads_ ? 1 : 0;
  if (op == BlockOp::kOr) result = count > 0 ? 1 : 0;
  for (int i = 0; i < num_threads_; ++i) {
    threads_[i].result = static_cast<std::uint64_t>(result);
    make_ready(i);
  }
  num_at_block_ = 0;
  ++barrier_;
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
  Thread& t = threads_[self];
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
    const Thread& o = threads_[other];
    if (o.state != State::kAtWarp || o.request.mask != request.mask) continue;
    if (o.request.op != request.op || !same_site(o.site, site)) {
      fail(std::string("divergent ") + name + ": " + at(self) + "\nwhile " + at(other) + " in " +
           name_of(o.request.op));
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
  Thread* const lanes = &threads_[warp * kWarpSize];
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
    make_ready(warp * kWarpSize + i);
  }
}

// No thread can run and some have not ended: says who waits where, and who returned.
void Scheduler::report_stuck() {
  constexpr int kMaxListed = 8;
  int waiting = 0, returned = -1;
  std::string list;
  for (int i = 0; i < num_threads_; ++i) {
    const Thread& t = threads_[i];
    if (t.state == State::kDone) {
      if (returned < 0) returned = i;
      continue;
    }
    if (++waiting > kMaxListed) continue;
    list += "\n  " + at(i) +
            (t.state == State::kAtBlock ? " in __syncthreads" : std::string(" in ") + name_of(t.request.op));
  }
  fault_ = std::to_string(waiting) + " threads wait for others that never come:" + list;
  if (waiting > kMaxListed) fault_ += "\n  and " + std::to_string(waiting - kMaxListed) + " more";
  if (returned >= 0) {
    fault_ += "\n" + std::to_string(num_done_) + " threads returned, the first: " + where(returned);
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
  void* const memory = memory_.variable(key, size, alignment, name, &error);
  if (error != nullptr) fail(std::string(error) + ": variable " + name + ", " + where(current_));
  return memory;
}

unsigned char* Scheduler::dynamic_shared() {
  const char* error = nullptr;
  void* const memory = memory_.dynamic(&error);
  if (error != nullptr) fail(std::string(error) + ": " + where(current_));
  return static_cast<unsigned char*>(memory);
}

}  // namespace simt::detail
