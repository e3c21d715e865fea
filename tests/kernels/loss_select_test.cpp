#include "kernels/loss_select.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/guard.h"
#include "tests/support/random.h"
#include "tests/support/shapes.h"
#include "tests/support/tolerance.h"

namespace cohort::test {
namespace {

using kernels::SelectRule;

template <class A>
struct Selection {
  std::int32_t teacher;
  std::vector<std::int32_t> winner;
  std::vector<A> kl, feature;
};

struct Options {
  SelectRule rule = SelectRule::kArgmin;
  double kl = 1;
  double feature = 0;
  std::int32_t masked = -1;
  std::int32_t valid = -1;
};

template <class A>
Selection<A> select(const std::vector<A>& ce, const std::vector<A>& ce_rows, const Options& o,
                    CpuStream stream = {}) {
  const std::size_t m = ce.size();
  const std::size_t rows = ce_rows.size() / m;
  Guarded<A> kl(m * m);
  Guarded<A> feature(m * m);
  Guarded<std::int32_t> teacher(1);
  Guarded<std::int32_t> winner(rows);
  kernels::loss_select(stream, {.dtype = dtype_of<A>(),
                                .members = static_cast<int>(m),
                                .rows = static_cast<std::int64_t>(rows),
                                .rule = o.rule,
                                .kl = o.kl,
                                .feature = o.feature,
                                .ce = ce.data(),
                                .ce_rows = ce_rows.data(),
                                .masked_member = &o.masked,
                                .valid_rows = o.valid < 0 ? nullptr : &o.valid,
                                .teacher = teacher.data(),
                                .row_winner = rows == 0 ? nullptr : winner.data(),
                                .kl_weight = kl.data(),
                                .feature_weight = feature.data()});
  EXPECT_TRUE(kl.intact() && feature.intact() && teacher.intact() && winner.intact());
  return {teacher[0], winner.values(), kl.values(), feature.values()};
}

template <class A>
class LossSelect : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(LossSelect, Types);

// Batch losses of the golden fixture: member 3 teaches.
TYPED_TEST(LossSelect, Golden) {
  using V = std::vector<TypeParam>;
  const V ce = {static_cast<TypeParam>(.690169), static_cast<TypeParam>(.707557),
                static_cast<TypeParam>(.515647)};
  auto s = select<TypeParam>(ce, {}, {.kl = 2, .feature = 0.5});
  EXPECT_EQ(s.teacher, 2);
  EXPECT_EQ(s.kl, (V{0, 0, 2, 0, 0, 2, 0, 0, 0}));
  EXPECT_EQ(s.feature, (V{0, 0, 0.5, 0, 0, 0.5, 0, 0, 0}));
  s = select<TypeParam>(ce, {}, {.rule = SelectRule::kAllBetter, .kl = 2, .feature = 0.5});
  EXPECT_EQ(s.kl, (V{0, 0, 2, 1, 0, 1, 0, 0, 0}));
  EXPECT_EQ(s.feature, (V{0, 0, 0.5, 0.25, 0, 0.25, 0, 0, 0}));
}

TYPED_TEST(LossSelect, PerSampleWinners) {
  using V = std::vector<TypeParam>;
  const TypeParam nan = std::numeric_limits<TypeParam>::quiet_NaN();
  const TypeParam inf = std::numeric_limits<TypeParam>::infinity();
  // Rows: plain, a tie, NaN first, inf, all sick.
  const V rows = {1, 2, nan, inf, nan, 3, 2, 5, 4, inf, 2, 3, 4, 9, -inf};
  EXPECT_EQ(select<TypeParam>({1, 1, 1}, rows, {}).winner, (std::vector<std::int32_t>{0, 0, 2, 1, -1}));
  EXPECT_EQ(select<TypeParam>({1, 1, 1}, rows, {.valid = 2}).winner,
            (std::vector<std::int32_t>{0, 0, -1, -1, -1}));
}

TYPED_TEST(LossSelect, SickMembersNeverTeach) {
  using V = std::vector<TypeParam>;
  const TypeParam nan = std::numeric_limits<TypeParam>::quiet_NaN();
  const TypeParam inf = std::numeric_limits<TypeParam>::infinity();
  auto s = select<TypeParam>({nan, 2, -inf}, {}, {});
  EXPECT_EQ(s.teacher, 1);
  EXPECT_EQ(s.kl, (V{0, 1, 0, 0, 0, 0, 0, 1, 0}));
  s = select<TypeParam>({nan, 2, 3}, {}, {.rule = SelectRule::kAllBetter});
  EXPECT_EQ(s.kl, (V{0, 0, 0, 0, 0, 0, 0, 1, 0}));
  for (const auto rule : {SelectRule::kArgmin, SelectRule::kAllBetter}) {
    s = select<TypeParam>({nan, inf, nan}, {}, {.rule = rule, .feature = 1});
    EXPECT_EQ(s.teacher, -1);
    EXPECT_EQ(s.kl, V(9, 0));
    EXPECT_EQ(s.feature, V(9, 0));
  }
}

TYPED_TEST(LossSelect, TiesAndLoneMembers) {
  using V = std::vector<TypeParam>;
  auto s = select<TypeParam>({1, 1}, {}, {});
  EXPECT_EQ(s.teacher, 0);
  EXPECT_EQ(s.kl, (V{0, 0, 1, 0}));
  s = select<TypeParam>({1, 1}, {}, {.rule = SelectRule::kAllBetter});  // strictly better only
  EXPECT_EQ(s.kl, V(4, 0));
  s = select<TypeParam>({5}, {}, {});
  EXPECT_EQ(s.teacher, 0);
  EXPECT_EQ(s.kl, V{0});
}

TYPED_TEST(LossSelect, MaskedMemberHasNoFeatureTerm) {
  using V = std::vector<TypeParam>;
  const V ce = {3, 1, 2};
  EXPECT_EQ(select<TypeParam>(ce, {}, {.feature = 1, .masked = 0}).feature, (V{0, 0, 0, 0, 0, 0, 0, 1, 0}));
  const auto s = select<TypeParam>(ce, {}, {.feature = 1, .masked = 1});
  EXPECT_EQ(s.feature, V(9, 0));
  EXPECT_EQ(s.kl, (V{0, 1, 0, 0, 0, 0, 0, 1, 0}));  // its logits still teach
}

// With two members the rules coincide, save for exact ties.
TYPED_TEST(LossSelect, RulesCoincideForTwo) {
  Random rng(base_seed());
  for (int draw = 0; draw < 200; ++draw) {
    const auto ce = rng.uniforms<TypeParam>(2, 0, 5);
    const auto a = select<TypeParam>(ce, {}, {.kl = 0.7});
    const auto b = select<TypeParam>(ce, {}, {.rule = SelectRule::kAllBetter, .kl = 0.7});
    EXPECT_TRUE(same_bits(a.kl, b.kl));
  }
}

TYPED_TEST(LossSelect, WinnersOnAnyNumberOfThreads) {
  Random rng(base_seed());
  const std::size_t members = 4;
  const std::size_t rows = 10007;
  const auto ce_rows = rng.uniforms<TypeParam>(members * rows, 0, 1);
  std::vector<std::int32_t> expected(rows, 0);
  for (std::size_t b = 0; b < rows; ++b) {
    for (std::size_t k = 1; k < members; ++k) {
      const auto best = static_cast<std::size_t>(expected[b]);
      if (ce_rows[k * rows + b] < ce_rows[best * rows + b]) expected[b] = static_cast<std::int32_t>(k);
    }
  }
  for_each_thread_count([&](CpuStream stream) {
    EXPECT_EQ(select<TypeParam>({1, 2, 3, 4}, ce_rows, {}, stream).winner, expected);
  });
}

TEST(LossSelectContract, RefusesWhatItCannotDo) {
  std::int32_t winner = 0;
  float ce = 1;
  EXPECT_THROW(kernels::loss_select(CpuStream{}, {.members = 1, .rows = 1, .ce = &ce, .row_winner = &winner}),
               Error);
  EXPECT_THROW(kernels::loss_select(CpuStream{}, {.dtype = DType::bf16, .members = 1, .ce = &ce}), Error);
  EXPECT_THROW(kernels::loss_select(CpuStream{}, {.members = 0, .ce = &ce}), Error);
}

}  // namespace
}  // namespace cohort::test
