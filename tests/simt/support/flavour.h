// What a test of kernels asks of the build it is in: plain, AddressSanitizer + UndefinedBehaviorSanitizer, or
// ThreadSanitizer. Found at run time, so that tests are compiled once and linked with kernels of each
// flavour.
#pragma once

#include <vector>

#include "simt/emulator/sanitizers.h"
#include "simt/emulator/schedule.h"

namespace simt::test {

inline bool asan() {
  return detail::with_asan();
}
inline bool tsan() {
  return detail::with_tsan();
}

// Data races reported since the last call, each pair of source positions once per process. A test that does
// not ask fails when there was one (main.cpp).
int take_races();

// A launch in which two blocks write the same word, as wide as the widest launch so far. The detector can
// stop working without a word, so every ThreadSanitizer binary makes sure at its end that this is reported.
void run_planted_race();

// The orders every kernel must give the same bits in.
inline std::vector<Schedule> all_schedules() {
  return {{Schedule::Order::kForward, 0},
          {Schedule::Order::kReverse, 0},
          {Schedule::Order::kRandom, 1},
          {Schedule::Order::kRandom, 2}};
}

}  // namespace simt::test
