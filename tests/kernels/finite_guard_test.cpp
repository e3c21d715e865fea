#include "kernels/finite_guard.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/devices.h"
#include "tests/support/tolerance.h"

namespace cohort::test {
namespace {

using kernels::GradientBlock;
using Mask = std::vector<std::int32_t>;

template <class Param>
class FiniteGuard : public TypedDeviceTest<Param> {
 protected:
  // The emulated device executes a million threads a second.
  static constexpr bool kSlow = Param::device != Device::kCpu && kEmulated;
};
using Types = OnDevices<float, double>;
TYPED_TEST_SUITE(FiniteGuard, Types, DeviceNames);

template <class T>
struct Case {
  std::vector<std::vector<T>> gradients;
  std::vector<int> owners;
  std::vector<T> loss;
  std::vector<std::int32_t> allowed;
  std::size_t misalign = 0;

  Mask run(Place place, Mask* block_mask = nullptr) const {
    OnDevice on(place);
    std::vector<Guarded<T>> data;
    for (const auto& gradient : gradients) data.emplace_back(gradient, misalign);
    std::vector<GradientBlock> blocks;
    for (std::size_t b = 0; b < data.size(); ++b) {
      blocks.push_back({on(data[b]), static_cast<std::int64_t>(data[b].size()), owners[b]});
    }
    Guarded<std::int32_t> mask(loss.size()), per_block(blocks.size());
    const kernels::FiniteGuardArgs args{.dtype = dtype_of<T>(),
                                        .members = static_cast<int>(loss.size()),
                                        .blocks = blocks,
                                        .loss = on(loss),
                                        .allowed = on(allowed),
                                        .mask = on(mask),
                                        .block_mask = on(per_block)};
    on.run([&](auto stream) { kernels::finite_guard(stream, args); });
    EXPECT_TRUE(mask.intact() && per_block.intact());
    for (std::size_t b = 0; b < data.size(); ++b) EXPECT_TRUE(same_bits(data[b].values(), gradients[b]));
    if (block_mask != nullptr) *block_mask = per_block.values();
    return mask.values();
  }
};

TYPED_TEST(FiniteGuard, OneBadValueAnywhereStopsItsMemberOnly) {
  using T = typename TypeParam::Type;
  constexpr std::int64_t kSize = 70001;  // more than one chunk, odd
  ThreadPool pool(3);
  const Place place = TypeParam::device == Device::kCpu ? Place(CpuStream{&pool}) : Place(TypeParam::device);
  for (const T bad : {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity(),
                      -std::numeric_limits<T>::infinity()}) {
    for (const std::size_t at : {0UL, 1UL, 4095UL, 4096UL, 8191UL, 8192UL, 65535UL, 65536UL, 70000UL}) {
      if (this->kSlow && bad == bad && at != 4096) continue;  // infinities: in one place
      Case<T> c{{std::vector<T>(kSize, T{3e30F}), std::vector<T>(5, 1), std::vector<T>(7, 1)},
                {0, 1, 0},
                {1, 1},
                {1, 1}};
      c.gradients[0][at] = bad;
      c.misalign = at % 3;
      Mask blocks;
      EXPECT_EQ(c.run(place, &blocks), (Mask{0, 1}));
      EXPECT_EQ(blocks, (Mask{0, 1, 0}));
    }
  }
}

TYPED_TEST(FiniteGuard, LossAndPermissionDecideToo) {
  using T = typename TypeParam::Type;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const Case<T> c{{{1}, {1}, {1}}, {0, 1, 2}, {1, nan, 1}, {1, 1, 0}};
  EXPECT_EQ(c.run(TypeParam::device), (Mask{1, 0, 0}));
}

TYPED_TEST(FiniteGuard, HugeButFinitePasses) {
  using T = typename TypeParam::Type;
  const T huge = std::numeric_limits<T>::max();
  const Case<T> c{{{huge, -huge, huge}, {}}, {0, 1}, {huge, 0}, {1, 1}};
  EXPECT_EQ(c.run(TypeParam::device), (Mask{1, 1}));
}

// A verdict is of this call alone.
TYPED_TEST(FiniteGuard, ASickCallLeavesNothingBehind) {
  using T = typename TypeParam::Type;
  Case<T> c{{{1, 2}, {3}}, {0, 1}, {1, 1}, {1, 1}};
  c.gradients[1][0] = std::numeric_limits<T>::infinity();
  EXPECT_EQ(c.run(TypeParam::device), (Mask{1, 0}));
  c.gradients[1][0] = 3;
  EXPECT_EQ(c.run(TypeParam::device), (Mask{1, 1}));
}

TYPED_TEST(FiniteGuard, NoGradientsAtAll) {
  using T = typename TypeParam::Type;
  const Case<T> c{{}, {}, {1, std::numeric_limits<T>::quiet_NaN()}, {1, 1}};
  EXPECT_EQ(c.run(TypeParam::device), (Mask{1, 0}));
}

// More blocks than travel with one launch.
TYPED_TEST(FiniteGuard, ManyBlocks) {
  using T = typename TypeParam::Type;
  const int num_blocks = this->kSlow ? 70 : 150;
  for (const int bad : {0, 63, 64, 69, 127, 128, 149}) {
    if (bad >= num_blocks) continue;
    SCOPED_TRACE(bad);
    Case<T> c{{}, {}, std::vector<T>(16, 1), Mask(16, 1)};
    Mask expected(16, 1), expected_blocks;
    expected[static_cast<std::size_t>(bad % 16)] = 0;
    for (int b = 0; b < num_blocks; ++b) {
      c.gradients.emplace_back(static_cast<std::size_t>(b % 5),
                               b == bad ? std::numeric_limits<T>::infinity() : T{1});
      if (b == bad) c.gradients.back().assign(3, std::numeric_limits<T>::infinity());
      c.owners.push_back(b % 16);
      expected_blocks.push_back(b % 16 == bad % 16 ? 0 : 1);
    }
    Mask blocks;
    EXPECT_EQ(c.run(TypeParam::device, &blocks), expected);
    EXPECT_EQ(blocks, expected_blocks);
  }
}

}  // namespace
}  // namespace cohort::test
