#include "kernels/step_record.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/support/devices.h"

namespace cohort::kernels {
namespace {

using test::Device;
using test::Guarded;

class StepRecord : public ::testing::TestWithParam<Device> {};

TEST_P(StepRecord, WritesOneRowOfTheRing) {
  COHORT_SKIP_WITHOUT(GetParam());
  constexpr std::int64_t kCapacity = 4, kWidth = 60;
  const std::vector<float> f = {0.1F, -3e38F, std::numeric_limits<float>::infinity()};
  const std::vector<double> d = {1.0 / 3.0};
  std::vector<std::int32_t> i(40);
  std::iota(i.begin(), i.end(), -3);
  const std::vector<bf16> b = {bf16(1.5F), bf16(-2.0F)};
  const std::vector<double> old(kCapacity * kWidth, 42.0);
  for (const std::int32_t step : {0, 3, 4, 1000003}) {
    Guarded<double> ring(old);
    test::OnDevice on(GetParam());
    const std::vector<std::int32_t> steps = {step};
    on.run([&](auto stream) {
      StepRecordArgs args{
          .num_sources = 5, .ring = on(ring), .width = kWidth, .capacity = kCapacity, .step = on(steps)};
      args.sources[0] = {on(f), 3, DType::f32};
      args.sources[1] = {on(d), 1, DType::f64};
      args.sources[2] = {nullptr, 2, DType::f32};
      args.sources[3] = {on(i), 40, DType::i32};
      args.sources[4] = {on(b), 2, DType::bf16};
      step_record(stream, args);
    });
    EXPECT_TRUE(ring.intact());
    std::vector<double> expected = old;
    double* row = expected.data() + step % kCapacity * kWidth;
    for (const float x : f) *row++ = static_cast<double>(x);
    *row++ = d[0];
    double* const absent = row;
    row += 2;
    for (const std::int32_t x : i) *row++ = x;
    *row++ = 1.5;
    *row++ = -2.0;
    for (std::size_t k = 0; k < expected.size(); ++k) {
      const bool missing = expected.data() + k == absent || expected.data() + k == absent + 1;
      if (missing) {
        EXPECT_TRUE(std::isnan(ring[k])) << k;
      } else {
        EXPECT_EQ(ring[k], expected[k]) << k;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, StepRecord, ::testing::ValuesIn(test::all_devices()),
                         [](const auto& p) { return test::name_of(p.param); });

}  // namespace
}  // namespace cohort::kernels
