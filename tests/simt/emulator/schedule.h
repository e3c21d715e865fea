// The order in which the emulator runs blocks, warps and lanes. A kernel without races and without sums of
// varying order gives the same bits under every schedule.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace simt {

struct Schedule {
  enum class Order : std::uint8_t { kForward, kReverse, kRandom };
  Order order = Order::kForward;
  std::uint64_t seed = 0;  // kRandom: the order of blocks, and which thread runs next, everywhere
};

// "forward", "reverse", "random:SEED"; anything else throws std::invalid_argument.
Schedule parse_schedule(std::string_view text);
std::string to_string(const Schedule& schedule);

// Of all later launches of the process. At start: the environment's SIMT_SCHEDULE, else forward.
void set_schedule(const Schedule& schedule);
Schedule schedule();

// For one scope.
class ScopedSchedule {
 public:
  explicit ScopedSchedule(const Schedule& now) : before_(schedule()) { set_schedule(now); }
  ~ScopedSchedule() { set_schedule(before_); }
  ScopedSchedule(const ScopedSchedule&) = delete;
  ScopedSchedule& operator=(const ScopedSchedule&) = delete;

 private:
  Schedule before_;
};

// Threads of the largest block that the process has launched.
int widest_block();

// An error of a kernel or of its launch that a device would have answered with a wrong result, a hang or an
// exception.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace simt
