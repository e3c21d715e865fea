#include "kernels/step_feed.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/support/devices.h"

namespace cohort::kernels {
namespace {

using test::Device;
using test::Guarded;

class StepFeed : public ::testing::TestWithParam<Device> {};

TEST_P(StepFeed, WalksThroughAnEpoch) {
  COHORT_SKIP_WITHOUT(GetParam());
  constexpr std::int64_t kCount = 700, kBatch = 300, kColumns = 3;
  std::vector<std::int32_t> order(kCount);
  std::iota(order.rbegin(), order.rend(), 7);
  std::vector<float> rates(3 * kColumns);
  std::iota(rates.begin(), rates.end(), 0.5F);
  Guarded<std::int32_t> cursor(std::vector<std::int32_t>{0});
  for (std::int32_t k = 0; k < 3; ++k) {
    const std::int64_t rows = std::min<std::int64_t>(kBatch, kCount - k * kBatch);
    test::OnDevice on(GetParam());
    Guarded<std::int32_t> indices(static_cast<std::size_t>(rows)), epoch(1), step(1);
    Guarded<std::int32_t> image_rows(static_cast<std::size_t>(rows));
    Guarded<float> rates_out(kColumns);
    on.run([&](auto stream) {
      step_feed(stream, {.order = on(order),
                         .epoch_of = on(std::vector<std::int32_t>{4, 1000}),
                         .rates = on(rates),
                         .cursor = on(cursor),
                         .indices = on(indices),
                         .image_rows = on(image_rows),
                         .epoch = on(epoch),
                         .step = on(step),
                         .rates_out = on(rates_out),
                         .rows = rows,
                         .batch_size = kBatch,
                         .columns = kColumns,
                         .ring_steps = 2});
    });
    for (std::int64_t r = 0; r < rows; ++r)
      EXPECT_EQ(indices[static_cast<std::size_t>(r)], order[static_cast<std::size_t>(k * kBatch + r)]);
    for (std::int64_t r = 0; r < rows; ++r)
      EXPECT_EQ(image_rows[static_cast<std::size_t>(r)], (k % 2) * kBatch + r);
    for (std::int64_t j = 0; j < kColumns; ++j)
      EXPECT_EQ(rates_out[static_cast<std::size_t>(j)], rates[static_cast<std::size_t>(k * kColumns + j)]);
    EXPECT_EQ(epoch[0], 4);
    EXPECT_EQ(step[0], 1000 + k);
    EXPECT_EQ(cursor[0], k + 1);
    EXPECT_TRUE(image_rows.intact() && indices.intact() && epoch.intact() && step.intact() &&
                rates_out.intact() && cursor.intact());
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, StepFeed, ::testing::ValuesIn(test::all_devices()),
                         [](const auto& p) { return test::name_of(p.param); });

}  // namespace
}  // namespace cohort::kernels
