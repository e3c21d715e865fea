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
  memory_.begin_launch(config.shared);
  order_.begin_launch(static_cast<std::size_t>(num_threads_));
  std::size_t place = 0;
  for (const std::size_t block : block_order()) {
    order_.begin_block(place++);
    run_block(block);
    if (!fault_.empty()) break;
  }
  order_.end_launch();
  if (!fault_.empty()) throw Fault(fault_ + launch_site());
}

void Scheduler::run_block(std::size_t block) {
  const dim3& grid = config_->grid;
  blockIdx.x = static_cast<unsigned>(block % grid.x);
  blockIdx.y = static_cast<unsigned>(block / grid.x % grid.y);
  blockIdx.z = static_cast<unsigned>(block / (std::size_t{grid.x} * grid.y));
  memory_.begin_block();
  parity_ ^= 1U;
  num_done_ = num_at_block_ = 0;
  barrier_ = 0;
  ready_warps_ = 0;
  for (int i = 0; i < num_threads_; ++i) {
    const auto thread = static_cast<unsigned>(i);
    const unsigned row = thread / blockDim.x;
    threads_[i].index = {thread % blockDim.x, row % blockDim.y, row / blockDim.y};
    threads_[i].fiber = nullptr;
    async_copies_[thread].clear();
    make_ready(i);
  }
  while (num_done_ < num_threads_) {
    const int next = pick_thread();
    if (next < 0) report_stuck();
    if (fault_.empty()) step(next);
    if (!fault_.empty()) {
      unwind_all();
      return;
    }
  }
  if (const char* const name = memory_.damaged()) {
    fault_ = std::string("a write beyond the end of the shared variable ") + name;
  }
}

void Scheduler::make_ready(int thread) {
  threads_[thread].state = State::kReady;
  ready_[thread / kWarpSize] |= 1U << (thread % kWarpSize);
  ready_warps_ |= 1U << (thread / kWarpSize);
}

// A ready thread in the order of the schedule, taken from the ready ones; -1: none.
int Scheduler::pick_thread() {
  if (ready_warps_ == 0) return -1;
  const auto choose = [this](unsigned bits) {
    if (schedule_.order == Schedule::Order::kForward) return std::countr_zero(bits);
    if (schedule_.order == Schedule::Order::kReverse) return 31 - std::countl_zero(bits);
    for (std::uint64_t skip = random() % static_cast<unsigned>(std::popcount(bits)); skip > 0; --skip) {
      bits &= bits - 1;
    }
    return std::countr_zero(bits);
  };
  const int warp = choose(ready_warps_);
  const int lane = choose(ready_[warp]);
  ready_[warp] &= ~(1U << lane);
  if (ready_[warp] == 0) ready_warps_ &= ~(1U << warp);
  return warp * kWarpSize + lane;
}

Fiber* Scheduler::take_fiber(int thread) {
  if (with_tsan()) {
    Fiber*& fiber = fixed_fibers_[parity_][thread];
    if (fiber == nullptr) fiber = new Fiber;
    return fiber;
  }
  if (free_fibers_.empty()) return new Fiber;
  Fiber* const fiber = free_fibers_.back();
  free_fibers_.pop_back();
  return fiber;
}

void Scheduler::give_fiber(int thread) {
  if (!with_tsan()) free_fibers_.push_back(threads_[thread].fiber);
  threads_[thread].fiber = nullptr;
}

// Runs the thread until it waits or ends.
void Scheduler::step(int thread) {
  Thread& t = threads_[thread];
  if (t.fiber == nullptr) {
    t.fiber = take_fiber(thread);
    t.fiber->start(&Scheduler::enter, this);
  }
  current_ = thread;
  threadIdx = t.index;
  t.fiber->resume();
  current_ = -1;
  if (t.fiber->idle()) {
    t.state = State::kDone;
    ++num_done_;
    give_fiber(thread);
  }
}

void Scheduler::enter(void* self) {
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
  Thread& t = threads_[current_];
  if (state != State::kReady) t.state = state;
  t.fiber->suspend();
  if (aborting_) throw Unwind{};
}

// Every suspended thread is resumed once and leaves its kernel by an exception, so that its fiber is clean.
void Scheduler::unwind_all() {
  aborting_ = true;
  for (int i = 0; i < num_threads_; ++i) {
    if (threads_[i].fiber != nullptr) step(i);
  }
  ready_.fill(0);
  aborting_ = false;
}

}  // namespace simt::detail
