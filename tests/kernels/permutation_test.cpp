#include "kernels/permutation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "kernels/permutation_math.h"
#include "tests/support/devices.h"

namespace cohort::kernels {
namespace {

using test::Device;

// On one thread of the CPU, or on the device.
std::vector<std::int32_t> shuffled(test::Place place, const std::vector<std::int32_t>& values,
                                   std::uint64_t seed, std::uint32_t epoch) {
  test::OnDevice on(place);
  test::Guarded<std::int32_t> out(values.size());
  const auto count = static_cast<std::int64_t>(values.size());
  std::size_t bytes = 0;
  test::OnDevice(place).run([&](auto stream) { bytes = permutation_workspace(stream, count); });
  test::Scratch scratch(bytes);
  on.run([&](auto stream) {
    permutation(stream, {.values = on(values), .out = on(out), .count = count, .seed = seed, .epoch = epoch},
                on(scratch));
  });
  EXPECT_TRUE(out.intact());
  return out.values();
}

std::vector<std::int32_t> iota(std::size_t count) {
  std::vector<std::int32_t> values(count);
  std::iota(values.begin(), values.end(), 100);
  return values;
}

class Permutation : public ::testing::TestWithParam<Device> {};

TEST_P(Permutation, SortsByKey) {
  COHORT_SKIP_WITHOUT(GetParam());
  for (const std::size_t count : {0, 1, 2, 31, 256, 257, 1000}) {
    std::vector<std::int32_t> expected = iota(count);
    std::stable_sort(expected.begin(), expected.end(), [](std::int32_t a, std::int32_t b) {
      return permutation_key(5, 3, static_cast<std::uint32_t>(a - 100)) <
             permutation_key(5, 3, static_cast<std::uint32_t>(b - 100));
    });
    EXPECT_EQ(shuffled(GetParam(), iota(count), 5, 3), expected) << count;
  }
}

TEST_P(Permutation, DependsOnSeedAndEpoch) {
  COHORT_SKIP_WITHOUT(GetParam());
  const std::vector<std::int32_t> values = iota(100), first = shuffled(GetParam(), values, 1, 0);
  EXPECT_EQ(first, shuffled(GetParam(), values, 1, 0));
  EXPECT_NE(first, shuffled(GetParam(), values, 1, 1));
  EXPECT_NE(first, shuffled(GetParam(), values, 2, 0));
  EXPECT_NE(first, values);
}

INSTANTIATE_TEST_SUITE_P(Devices, Permutation, ::testing::ValuesIn(test::all_devices()),
                         [](const auto& i) { return test::name_of(i.param); });

TEST(PermutationStatistics, EveryOrderOfThreeEquallyOften) {
  std::map<std::vector<std::int32_t>, int> seen;
  for (std::uint32_t epoch = 0; epoch < 6000; ++epoch) ++seen[shuffled(Device::kCpu, {0, 1, 2}, 9, epoch)];
  ASSERT_EQ(seen.size(), 6U);
  for (const auto& [order, times] : seen) EXPECT_NEAR(times, 1000, 150);  // 5 standard deviations
}

}  // namespace
}  // namespace cohort::kernels
