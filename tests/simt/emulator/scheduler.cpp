#include "simt/emulator/scheduler.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <utility>

#include "simt/emulator/sanitizers.h"

// What device_launch_parameters.h declares, extern "C" and const there: constant for the thread that reads
// them.
extern "C" {
uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;
int warpSize = simt::detail::kWarpSize;
}

namespace simt::detail {

// Never destroyed: its fibers are suspended for ever.
Scheduler& Scheduler::instance() {
  static Scheduler* const scheduler = new Scheduler;
  return *scheduler;
}

std::uint64_t Scheduler::random() {  // splitmix64
  std::uint64_t z = random_state_ += 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

void Scheduler::check_limits() const {
  const dim3& grid = config_->grid;
  const dim3& block = config_->block;
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || block.z > 64) {
    throw Fault("a block of " + std::to_string(threads) + " threads: 1 to 1024, z at most 64" +
                launch_site());
  }
  if (grid.x > 0x7fffffffU || grid.y > 65535 || grid.z > 65535) {
    throw Fault("a grid larger than (2^31-1, 65535, 65535)" + launch_site());
  }
  if (config_->shared > BlockMemory::kTotalLimit) {
    throw Fault("dynamic shared memory of more than 163 KiB" + launch_site());
  }
}

std::vector<std::size_t> Scheduler::block_order() {
  const dim3& grid = config_->grid;
  std::vector<std::size_t> order(std::size_t{grid.x} * grid.y * grid.z);
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (schedule_.order == Schedule::Order::kReverse) {
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = order.size() - 1 - i;
  } else if (schedule_.order == Schedule::Order::kRandom) {
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  }
  return order;
}

std::size_t Scheduler::max_threads_at_once() {
  return with_tsan() ? 2048 : 16384;
}

void Scheduler::run(const LaunchConfig& config, const std::function<void()>& body) {
  if (config_ != nullptr) {
    throw Fault("a launch while another one runs, from a second host thread: one at a time" + launch_site());
  }
  config_ = &config;
  struct Leave {
    const LaunchConfig*& config;
    ~Leave() { config = nullptr; }
  } const leave{config_};
  check_limits();
  body_ = &body;
  schedule_ = schedule();
  random_state_ = schedule_.seed;
  fault_.clear();
  aborting_ = false;
  num_threads_ = static_cast<int>(config.block.x * config.block.y * config.block.z);
  num_warps_ = (num_threads_ + kWarpSize - 1) / kWarpSize;
  widest_block_ = std::max(widest_block_, num_threads_);
  blockDim = config.block;
  gridDim = config.grid;
  const std::vector<std::size_t> order = block_order();
  num_blocks_ = config.cooperative ? order.size() : 1;
  while (blocks_.size() < num_blocks_) blocks_.push_back(std::make_unique<Block>());
  memory_.begin_launch(config.shared);
  order_.begin_launch(static_cast<std::size_t>(num_threads_), num_blocks_);
  for (std::size_t place = 0; place < order.size() && fault_.empty(); place += num_blocks_) {
    memory_.begin_blocks();
    for (std::size_t slot = 0; slot < num_blocks_; ++slot) {
      blocks_[slot]->slot = slot;
      begin_block(*blocks_[slot], order[place + slot], place + slot);
    }
    run_blocks();
  }
  order_.end_launch();
  if (!fault_.empty()) throw Fault(fault_ + launch_site());
}

void Scheduler::begin_block(Block& block, std::size_t number, std::size_t place) {
  const dim3& grid = config_->grid;
  block.index.x = static_cast<unsigned>(number % grid.x);
  block.index.y = static_cast<unsigned>(number / grid.x % grid.y);
  block.index.z = static_cast<unsigned>(number / (std::size_t{grid.x} * grid.y));
  block.place = place;
  block.fibers = config_->cooperative ? block.slot : parity_ ^= 1U;
  block.num_done = block.num_at_block = block.first_at_block = 0;
  block.barrier = 0;
  block.ready.fill(0);
  block.ready_warps = 0;
  const auto threads = static_cast<std::size_t>(num_threads_);
  if (block.threads.size() < threads) {
    block.threads.resize(threads);
    block.async_copies.resize(threads);
  }
  for (int i = 0; i < num_threads_; ++i) {
    const auto thread = static_cast<unsigned>(i);
    const unsigned row = thread / blockDim.x;
    block.threads[thread].index = {thread % blockDim.x, row % blockDim.y, row / blockDim.y};
    block.threads[thread].fiber = nullptr;
    block.async_copies[thread].clear();
    make_ready(block, i);
  }
  order_.begin_block(place, block.slot);
}

void Scheduler::run_blocks() {
  num_running_ = num_blocks_;
  sleepers_.clear();
  idle_rounds_ = 0;
  enter(*blocks_[0]);
  while (num_running_ > 0) {
    if (pick_block()) {
      step(pick_thread());
      if (block_->num_done == num_threads_) end_block(*block_);
    } else if (!wake()) {
      report_stuck();
    }
    if (!fault_.empty()) {
      unwind_all();
      return;
    }
  }
}

void Scheduler::end_block(Block& block) {
  if (const char* const name = memory_.damaged(block.memory); name != nullptr && fault_.empty()) {
    fault_ = std::string("a write beyond the end of the shared variable ") + name;
  }
  memory_.end_block(block.memory);
  --num_running_;
}

void Scheduler::enter(Block& block) {
  block_ = &block;
  blockIdx.x = block.index.x;
  blockIdx.y = block.index.y;
  blockIdx.z = block.index.z;
  order_.enter_block(block.place, block.slot);
}

void Scheduler::make_ready(Block& block, int thread) {
  block.threads[static_cast<std::size_t>(thread)].state = State::kReady;
  block.ready[static_cast<std::size_t>(thread / kWarpSize)] |= 1U << (thread % kWarpSize);
  block.ready_warps |= 1U << (thread / kWarpSize);
}

// The block whose thread runs next becomes the current one: the same as long as it can go on, or, with a
// random schedule, any. False: nobody can run.
bool Scheduler::pick_block() {
  std::size_t slot = block_->slot;
  if (num_blocks_ > 1 && schedule_.order == Schedule::Order::kRandom) slot = random() % num_blocks_;
  for (std::size_t i = 0; i < num_blocks_; ++i) {
    Block& block = *blocks_[slot];
    if (block.ready_warps != 0) {
      if (&block != block_) enter(block);
      return true;
    }
    slot = slot + 1 == num_blocks_ ? 0 : slot + 1;
  }
  return false;
}

// Nobody can run but who sleeps: these look again. False: there are none, or they have looked in vain for
// long.
bool Scheduler::wake() {
  if (sleepers_.empty() || ++idle_rounds_ > kMaxIdleRounds) return false;
  std::vector<Sleeper> now;
  now.swap(sleepers_);
  for (const Sleeper& sleeper : now) make_ready(*sleeper.block, sleeper.thread);
  return true;
}

// A ready thread of the current block in the order of the schedule, taken from the ready ones.
int Scheduler::pick_thread() {
  const auto choose = [this](unsigned bits) {
    if (schedule_.order == Schedule::Order::kForward) return std::countr_zero(bits);
    if (schedule_.order == Schedule::Order::kReverse) return 31 - std::countl_zero(bits);
    for (std::uint64_t skip = random() % static_cast<unsigned>(std::popcount(bits)); skip > 0; --skip) {
      bits &= bits - 1;
    }
    return std::countr_zero(bits);
  };
  const int warp = choose(block_->ready_warps);
  unsigned& lanes = block_->ready[static_cast<std::size_t>(warp)];
  const int lane = choose(lanes);
  lanes &= ~(1U << lane);
  if (lanes == 0) block_->ready_warps &= ~(1U << warp);
  return warp * kWarpSize + lane;
}

Fiber* Scheduler::take_fiber(int thread) {
  if (with_tsan()) {
    const std::size_t row = block_->fibers;
    if (fixed_fibers_.size() <= row) fixed_fibers_.resize(row + 1);
    std::vector<Fiber*>& fibers = fixed_fibers_[row];
    if (fibers.size() <= static_cast<std::size_t>(thread))
      fibers.resize(static_cast<std::size_t>(num_threads_));
    Fiber*& fiber = fibers[static_cast<std::size_t>(thread)];
    if (fiber == nullptr) fiber = new Fiber;
    return fiber;
  }
  if (free_fibers_.empty()) return new Fiber;
  Fiber* const fiber = free_fibers_.back();
  free_fibers_.pop_back();
  return fiber;
}

void Scheduler::give_fiber(int thread) {
  Thread& t = block_->threads[static_cast<std::size_t>(thread)];
  if (!with_tsan()) free_fibers_.push_back(t.fiber);
  t.fiber = nullptr;
}

// Runs the thread until it waits or ends.
void Scheduler::step(int thread) {
  Thread& t = block_->threads[static_cast<std::size_t>(thread)];
  if (t.fiber == nullptr) {
    t.fiber = take_fiber(thread);
    t.fiber->start(&Scheduler::begin_thread, this);
  }
  current_ = thread;
  threadIdx = t.index;
  t.fiber->resume();
  current_ = -1;
  if (t.fiber->idle()) {
    t.state = State::kDone;
    ++block_->num_done;
    give_fiber(thread);
  }
  if (t.state == State::kAsleep) {  // written down here: an allocation in a fiber would be the CUDA thread's
    sleepers_.push_back({block_, thread});
  } else {
    idle_rounds_ = 0;
  }
}

void Scheduler::begin_thread(void* self) {
  auto& scheduler = *static_cast<Scheduler*>(self);
  scheduler.order_.begin_thread();
  try {
    (*scheduler.body_)();
  } catch (const Unwind&) {
  } catch (const std::exception& e) {
    if (scheduler.fault_.empty()) scheduler.fault_ = std::string("the kernel threw: ") + e.what();
  }
  scheduler.order_.end_thread();
}

void Scheduler::wait(State state) {
  Thread& t = block_->threads[static_cast<std::size_t>(current_)];
  if (state != State::kReady) t.state = state;
  t.fiber->suspend();
  if (aborting_) throw Unwind{};
}

// Every suspended thread is resumed once and leaves its kernel by an exception, so that its fiber is clean.
void Scheduler::unwind_all() {
  aborting_ = true;
  for (std::size_t slot = 0; slot < num_blocks_; ++slot) {
    Block& block = *blocks_[slot];
    enter(block);
    for (int i = 0; i < num_threads_; ++i) {
      if (block.threads[static_cast<std::size_t>(i)].fiber != nullptr) step(i);
    }
    memory_.end_block(block.memory);
  }
  aborting_ = false;
}

}  // namespace simt::detail
