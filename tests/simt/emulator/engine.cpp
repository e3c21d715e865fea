#include "simt/emulator/engine.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>

#include "kernels/base/error.h"
#include "simt/emulator/schedule.h"
#include "simt/emulator/scheduler.h"

namespace simt {
namespace {

Schedule& current_schedule() {
  static Schedule schedule = [] {
    const char* const text = std::getenv("SIMT_SCHEDULE");
    return text == nullptr ? Schedule{} : parse_schedule(text);
  }();
  return schedule;
}

}  // namespace

Schedule parse_schedule(std::string_view text) {
  if (text == "forward") return {};
  if (text == "reverse") return {Schedule::Order::kReverse, 0};
  constexpr std::string_view kRandom = "random:";
  if (text.starts_with(kRandom) && text.size() > kRandom.size() && text.size() < kRandom.size() + 19) {
    std::uint64_t seed = 0;
    for (const char c : text.substr(kRandom.size())) {
      if (c < '0' || c > '9') throw std::invalid_argument("schedule: the seed is a number");
      seed = seed * 10 + static_cast<std::uint64_t>(c - '0');
    }
    return {Schedule::Order::kRandom, seed};
  }
  throw std::invalid_argument("schedule '" + std::string(text) + "': forward, reverse or random:SEED");
}

std::string to_string(const Schedule& schedule) {
  if (schedule.order == Schedule::Order::kForward) return "forward";
  if (schedule.order == Schedule::Order::kReverse) return "reverse";
  return "random:" + std::to_string(schedule.seed);
}

void set_schedule(const Schedule& schedule) {
  current_schedule() = schedule;
}
Schedule schedule() {
  return current_schedule();
}

int widest_block() {
  return detail::Scheduler::instance().widest_block();
}

namespace detail {

void refuse_in_kernel(const LaunchConfig& config) {
  if (Scheduler::instance().in_kernel()) {
    Scheduler::instance().fail(std::string("a kernel launches a kernel at ") + launch_name(config));
  }
}

const char* launch_name(const LaunchConfig& config) {
  static std::mutex mutex;
  static auto* const names = new std::set<std::string>;
  const std::lock_guard lock(mutex);
  return names->insert(std::string(config.file) + ":" + std::to_string(config.line)).first->c_str();
}

void launch_failed(const LaunchConfig& config, int cuda_status) {
  throw cohort::Error(
      cohort::ErrorKind::kDevice,
      std::string(launch_name(config)) + ": launch failed with CUDA error " + std::to_string(cuda_status));
}

unsigned resident_blocks(const LaunchConfig& config) {
  const std::size_t threads = std::size_t{config.block.x} * config.block.y * config.block.z;
  const std::size_t held = Scheduler::max_threads_at_once() / std::max<std::size_t>(1, threads);
  return std::min(nominal_resident_blocks(config), static_cast<unsigned>(held));
}

void run_grid(const LaunchConfig& config, const std::function<void()>& thread) {
  Scheduler::instance().run(config, thread);
}

int block_barrier(BlockOp op, int predicate, const Site& site) {
  return Scheduler::instance().block_barrier(op, predicate, site);
}

std::uint64_t warp_collective(WarpOp op, unsigned mask, std::uint64_t value, int lane, int width,
                              const Site& site) {
  return Scheduler::instance().warp_collective({op, mask, value, lane, width}, site);
}

void sleep(const Site& site) {
  Scheduler::instance().sleep(site);
}

void fence() {
  Scheduler::instance().fence();
}
void note_atomic(const void* address) {
  Scheduler::instance().note_atomic(address);
}

void* shared_variable(const void* key, std::size_t size, std::size_t alignment, const char* name) {
  return Scheduler::instance().shared_variable(key, size, alignment, name);
}

unsigned char* dynamic_shared() {
  return Scheduler::instance().dynamic_shared();
}

void push_async_copy(void* shared, const void* global) {
  if (!Scheduler::instance().async_copies().push(shared, global)) {
    Scheduler::instance().fail("more asynchronous copies under way in one thread than the emulator holds");
  }
}

void commit_async_copies() {
  Scheduler::instance().async_copies().commit();
}

bool pop_async_copy(int newest, void** shared, const void** global) {
  return Scheduler::instance().async_copies().pop(newest, shared, global);
}

void fail(const char* what, const Site& site) {
  Scheduler::instance().fail_at(what, site);
}

}  // namespace detail
}  // namespace simt
