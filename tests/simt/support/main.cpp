// main() of the flavoured test binaries: a data race fails the test in which it happened.
#include <gtest/gtest.h>

#include <cstdio>

#include "simt/runtime/race_reports.h"
#include "simt/support/flavour.h"

namespace {

class RaceListener : public testing::EmptyTestEventListener {
  void OnTestStart(const testing::TestInfo&) override { simt::test::take_races(); }
  void OnTestEnd(const testing::TestInfo&) override {
    if (const int races = simt::test::take_races(); races > 0) ADD_FAILURE() << races << " data races";
  }
};

bool detector_works() {
  if (!simt::test::tsan()) return true;
  const simt::ExpectedRaces races;
  simt::test::run_planted_race();
  return races.seen();
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  testing::UnitTest::GetInstance()->listeners().Append(new RaceListener);
  int status = RUN_ALL_TESTS();
  if (!detector_works()) {
    std::fprintf(stderr,
                 "ThreadSanitizer did not report the planted race: its silence above means nothing\n");
    status = 1;
  }
  return status;
}
