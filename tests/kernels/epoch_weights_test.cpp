#include "kernels/epoch_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/devices.h"
#include "tests/support/random.h"

namespace cohort::test {
namespace {

using kernels::EpochWeightsArgs;

template <class Param>
class EpochWeights : public TypedDeviceTest<Param> {};
using Types = OnDevices<float, double>;
TYPED_TEST_SUITE(EpochWeights, Types, DeviceNames);

TYPED_TEST(EpochWeights, AnEntryPerEpochAndTheLastFromThereOn) {
  using T = typename TypeParam::Type;
  Random random(base_seed());
  for (const int count : {1, 3, 7, 31, 33, 200}) {
    const auto base = random.normals<T>(static_cast<std::size_t>(count));
    const auto table = random.normals<T>(5);
    for (const std::int32_t epoch : {-1, 0, 3, 4, 5, 1000}) {
      OnDevice on(TypeParam::device);
      Guarded<T> out(static_cast<std::size_t>(count), static_cast<std::size_t>(count % 3));
      const EpochWeightsArgs args{.dtype = dtype_of<T>(),
                                  .count = count,
                                  .entries = 5,
                                  .base = on(base),
                                  .table = on(table),
                                  .epoch = on(epoch),
                                  .out = on(out)};
      on.run([&](auto stream) { kernels::epoch_weights(stream, args); });
      EXPECT_TRUE(out.intact());
      std::vector<T> expected = base;
      for (T& v : expected) v *= table[static_cast<std::size_t>(std::clamp(epoch, 0, 4))];
      EXPECT_EQ(out.values(), expected) << count << " weights, epoch " << epoch;
    }
  }
}

TYPED_TEST(EpochWeights, WithoutEpochsTheyAreTheBaseAlsoInPlace) {
  using T = typename TypeParam::Type;
  OnDevice on(TypeParam::device);
  const std::vector<T> base = {T{2}, T{-3}, T{0}}, table = {T{7}};
  Guarded<T> values(base);
  T* const data = on(values);
  const EpochWeightsArgs args{.dtype = dtype_of<T>(),
                              .count = 3,
                              .entries = 1,
                              .base = data,
                              .table = on(table),
                              .epoch = nullptr,
                              .out = data};
  on.run([&](auto stream) { kernels::epoch_weights(stream, args); });
  EXPECT_TRUE(values.intact());
  EXPECT_EQ(values.values(), base);
}

class EpochWeightsContract : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(EpochWeightsContract);

TEST_P(EpochWeightsContract, RefusesWhatItCannotDo) {
  float value = 0;
  const auto refused = [&](const EpochWeightsArgs& args) {
    OnDevice on(GetParam());
    EXPECT_THROW(on.run([&](auto stream) { kernels::epoch_weights(stream, args); }), Error);
  };
  const EpochWeightsArgs good{.count = 1, .entries = 1, .base = &value, .table = &value, .out = &value};
  EpochWeightsArgs bad = good;
  bad.dtype = DType::bf16;
  refused(bad);
  bad = good;
  bad.entries = 0;
  refused(bad);
  bad = good;
  bad.table = nullptr;
  refused(bad);
}

}  // namespace
}  // namespace cohort::test
