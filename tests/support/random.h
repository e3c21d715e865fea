// Seeded random inputs: the engine's own generator, so that a failing case is named by its seed on any
// machine.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/philox.h"

// Names the seed in every failure message below it.
#define COHORT_TRACE_SEED(seed) SCOPED_TRACE(::testing::Message() << "seed " << (seed))

namespace cohort::test {

// The first seed of a property test; COHORT_TEST_SEED overrides it, to repeat or to widen a search.
inline std::uint64_t base_seed(std::uint64_t otherwise = 1) {
  const char* text = std::getenv("COHORT_TEST_SEED");
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : rng_(RngAddress{.seed = seed, .purpose = RngPurpose::kTest}) {}

  double uniform(double low, double high) { return low + (high - low) * static_cast<double>(rng_.uniform()); }
  double normal(double mean = 0, double sigma = 1) {
    return mean + sigma * static_cast<double>(rng_.normal());
  }
  // Uniform in [low, high], both included.
  int integer(int low, int high) {
    return low + static_cast<int>(rng_.below(static_cast<std::uint32_t>(high - low + 1)));
  }
  bool chance(double probability) { return static_cast<double>(rng_.uniform()) < probability; }

  template <class T>
  std::vector<T> normals(std::size_t count, double mean = 0, double sigma = 1) {
    std::vector<T> values(count);
    for (T& v : values) v = static_cast<T>(normal(mean, sigma));
    return values;
  }
  template <class T>
  std::vector<T> uniforms(std::size_t count, double low, double high) {
    std::vector<T> values(count);
    for (T& v : values) v = static_cast<T>(uniform(low, high));
    return values;
  }
  // Small integers make linear operations exact: compare with ==.
  template <class T>
  std::vector<T> integers(std::size_t count, int low, int high) {
    std::vector<T> values(count);
    for (T& v : values) {
      if constexpr (std::is_integral_v<T>) {
        v = static_cast<T>(integer(low, high));
      } else {
        v = static_cast<T>(static_cast<double>(integer(low, high)));
      }
    }
    return values;
  }

 private:
  Rng rng_;
};

}  // namespace cohort::test
