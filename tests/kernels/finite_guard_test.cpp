#include "kernels/finite_guard.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "kernels/cpu/parallel.h"

namespace cohort::kernels {
namespace {

template <class T>
class FiniteGuard : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(FiniteGuard, Types);

template <class T>
struct Case {
  std::vector<std::vector<T>> gradients;
  std::vector<int> owners;
  std::vector<T> loss;
  std::vector<std::int32_t> allowed;

  std::vector<std::int32_t> run(CpuStream stream, std::vector<std::int32_t>* block_mask = nullptr) const {
    std::vector<GradientBlock> blocks;
    for (std::size_t b = 0; b < gradients.size(); ++b) {
      blocks.push_back({gradients[b].data(), static_cast<std::int64_t>(gradients[b].size()), owners[b]});
    }
    std::vector<std::int32_t> mask(loss.size(), -7), per_block(blocks.size(), -7);
    finite_guard(stream, {.dtype = dtype_of<T>(),
                          .members = static_cast<int>(loss.size()),
                          .blocks = blocks,
                          .loss = loss.data(),
                          .allowed = allowed.data(),
                          .mask = mask.data(),
                          .block_mask = per_block.data()});
    if (block_mask != nullptr) *block_mask = per_block;
    return mask;
  }
};

using Mask = std::vector<std::int32_t>;

TYPED_TEST(FiniteGuard, OneBadValueAnywhereStopsItsMemberOnly) {
  constexpr std::int64_t kSize = 70001;  // more than one chunk, odd
  ThreadPool pool(3);
  for (const TypeParam bad :
       {std::numeric_limits<TypeParam>::quiet_NaN(), std::numeric_limits<TypeParam>::infinity(),
        -std::numeric_limits<TypeParam>::infinity()}) {
    for (const std::size_t at : {0UL, 1UL, 65535UL, 65536UL, 70000UL}) {
      Case<TypeParam> c{{std::vector<TypeParam>(kSize, TypeParam{3e30F}), std::vector<TypeParam>(5, 1),
                         std::vector<TypeParam>(7, 1)},
                        {0, 1, 0},
                        {1, 1},
                        {1, 1}};
      c.gradients[0][at] = bad;
      Mask blocks;
      EXPECT_EQ(c.run({&pool}, &blocks), (Mask{0, 1}));
      EXPECT_EQ(blocks, (Mask{0, 1, 0}));
    }
  }
}

TYPED_TEST(FiniteGuard, LossAndPermissionDecideToo) {
  const TypeParam nan = std::numeric_limits<TypeParam>::quiet_NaN();
  const Case<TypeParam> c{{{1}, {1}, {1}}, {0, 1, 2}, {1, nan, 1}, {1, 1, 0}};
  EXPECT_EQ(c.run({}), (Mask{1, 0, 0}));
}

TYPED_TEST(FiniteGuard, HugeButFinitePasses) {
  const TypeParam huge = std::numeric_limits<TypeParam>::max();
  const Case<TypeParam> c{{{huge, -huge, huge}, {}}, {0, 1}, {huge, 0}, {1, 1}};
  EXPECT_EQ(c.run({}), (Mask{1, 1}));
}

}  // namespace
}  // namespace cohort::kernels
