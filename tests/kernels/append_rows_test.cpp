#include "kernels/append_rows.h"

#include <gtest/gtest.h>

#include "tests/support/devices.h"
#include "tests/support/random.h"

namespace cohort::kernels {
namespace {

using test::Guarded;

template <class Types>
class AppendRows : public ::testing::Test {};
using Types = test::OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(AppendRows, Types, test::DeviceNames);

TYPED_TEST(AppendRows, FillsOneBatchAfterTheOther) {
  using T = typename TypeParam::Type;
  COHORT_SKIP_WITHOUT(TypeParam::device);
  constexpr std::int64_t kRows = 70, kBatch = 31, kColumns = 13;
  test::Random random(1);
  std::vector<Guarded<float>> out(2, Guarded<float>(kRows * kColumns));
  std::vector<std::vector<float>> expected(2);
  for (std::int32_t cursor = 1; cursor <= 3; ++cursor) {
    const std::int64_t rows = std::min(kBatch, kRows - (cursor - 1) * kBatch);
    std::vector<Guarded<T>> in;
    for (std::size_t m = 0; m < 2; ++m) {
      in.emplace_back(random.normals<T>(static_cast<std::size_t>(rows * kColumns)));
      for (const T& x : in[m].values()) expected[m].push_back(static_cast<float>(x));
    }
    const std::vector<std::int32_t> cursors = {cursor};
    test::OnDevice on(TypeParam::device);
    on.run([&](auto stream) {
      AppendRowsArgs args{.dtype = dtype_of<T>(),
                          .members = 2,
                          .cursor = on(cursors),
                          .rows = rows,
                          .batch_size = kBatch,
                          .columns = kColumns};
      for (std::size_t m = 0; m < 2; ++m) {
        args.in[m] = on(in[m]);
        args.out[m] = on(out[m]);
      }
      append_rows(stream, args);
    });
  }
  for (std::size_t m = 0; m < 2; ++m) {
    EXPECT_TRUE(out[m].intact());
    EXPECT_EQ(out[m].values(), expected[m]);
  }
}

}  // namespace
}  // namespace cohort::kernels
