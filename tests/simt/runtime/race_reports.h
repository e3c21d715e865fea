// Races that a test plants on purpose: under ThreadSanitizer they are counted instead of reported.
#pragma once

namespace simt {

// While one of these lives, reports of the race detector are counted and not shown.
class ExpectedRaces {
 public:
  ExpectedRaces();
  ~ExpectedRaces();
  ExpectedRaces(const ExpectedRaces&) = delete;
  ExpectedRaces& operator=(const ExpectedRaces&) = delete;

  // True when a race was found, and in builds without the detector. A detector that has died says false.
  bool seen() const;
};

}  // namespace simt
