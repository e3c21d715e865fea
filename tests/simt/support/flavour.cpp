#include "simt/support/flavour.h"

namespace {
int races = 0;
}

// Called by ThreadSanitizer's runtime. One report per pair of source positions, whatever the addresses:
// shared memory has the same addresses in every launch.
extern "C" void __tsan_on_report(void*) {
  ++races;
}
extern "C" const char* __tsan_default_options() {
  return "exitcode=0:atexit_sleep_ms=0:suppress_equal_addresses=0";
}

namespace simt::test {

int take_races() {
  const int count = races;
  races = 0;
  return count;
}

}  // namespace simt::test
