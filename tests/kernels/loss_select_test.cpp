#include "kernels/loss_select.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/devices.h"
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
Selection<A> select_on(Place place, const std::vector<A>& ce, const std::vector<A>& ce_rows,
                       const Options& o) {
  const std::size_t m = ce.size();
  const std::size_t rows = ce_rows.size() / m;
  Guarded<A> kl(m * m);
  Guarded<A> feature(m * m);
  Guarded<std::int32_t> teacher(1);
  Guarded<std::int32_t> winner(rows);
  OnDevice on(place);
  const kernels::LossSelectArgs args{.dtype = dtype_of<A>(),
                                     .members = static_cast<int>(m),
                                     .rows = static_cast<std::int64_t>(rows),
                                     .rule = o.rule,
                                     .kl = o.kl,
                                     .feature = o.feature,
                                     .ce = on(ce),
                                     .ce_rows = on(ce_rows),
                                     .masked_member = on(o.masked),
                                     .valid_rows = o.valid < 0 ? nullptr : on(o.valid),
                                     .teacher = on(teacher),
                                     .row_winner = rows == 0 ? nullptr : on(winner),
                                     .kl_weight = on(kl),
                                     .feature_weight = on(feature)};
  on.run([&](auto stream) { kernels::loss_select(stream, args); });
  EXPECT_TRUE(kl.intact() && feature.intact() && teacher.intact() && winner.intact());
  return {teacher[0], winner.values(), kl.values(), feature.values()};
}

template <class Param>
class LossSelect : public TypedDeviceTest<Param> {
 protected:
  using A = typename Param::Type;
  static Selection<A> select(const std::vector<A>& ce, const std::vector<A>& ce_rows, const Options& o) {
    return select_on<A>(Param::device, ce, ce_rows, o);
  }
};
using Types = OnDevices<float, double>;
TYPED_TEST_SUITE(LossSelect, Types, DeviceNames);

// Batch losses of the golden fixture: member 3 teaches.
TYPED_TEST(LossSelect, Golden) {
  using T = typename TypeParam::Type;
  using V = std::vector<T>;
  const V ce = {static_cast<T>(.690169), static_cast<T>(.707557), static_cast<T>(.515647)};
  auto s = this->select(ce, {}, {.kl = 2, .feature = 0.5});
  EXPECT_EQ(s.teacher, 2);
  EXPECT_EQ(s.kl, (V{0, 0, 2, 0, 0, 2, 0, 0, 0}));
  EXPECT_EQ(s.feature, (V{0, 0, 0.5, 0, 0, 0.5, 0, 0, 0}));
  s = this->select(ce, {}, {.rule = SelectRule::kAllBetter, .kl = 2, .feature = 0.5});
  EXPECT_EQ(s.kl, (V{0, 0, 2, 1, 0, 1, 0, 0, 0}));
  EXPECT_EQ(s.feature, (V{0, 0, 0.5, 0.25, 0, 0.25, 0, 0, 0}));
}

TYPED_TEST(LossSelect, PerSampleWinners) {
  using T = typename TypeParam::Type;
  using V = std::vector<T>;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const T inf = std::numeric_limits<T>::infinity();
  // Rows: plain, a tie, NaN first, inf, all sick.
  const V rows = {1, 2, nan, inf, nan, 3, 2, 5, 4, inf, 2, 3, 4, 9, -inf};
  EXPECT_EQ(this->select({1, 1, 1}, rows, {}).winner, (std::vector<std::int32_t>{0, 0, 2, 1, -1}));
  EXPECT_EQ(this->select({1, 1, 1}, rows, {.valid = 2}).winner,
            (std::vector<std::int32_t>{0, 0, -1, -1, -1}));
}

TYPED_TEST(LossSelect, SickMembersNeverTeach) {
  using T = typename TypeParam::Type;
  using V = std::vector<T>;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const T inf = std::numeric_limits<T>::infinity();
  auto s = this->select({nan, 2, -inf}, {}, {});
  EXPECT_EQ(s.teacher, 1);
  EXPECT_EQ(s.kl, (V{0, 1, 0, 0, 0, 0, 0, 1, 0}));
  s = this->select({nan, 2, 3}, {}, {.rule = SelectRule::kAllBetter});
  EXPECT_EQ(s.kl, (V{0, 0, 0, 0, 0, 0, 0, 1, 0}));
  for (const auto rule : {SelectRule::kArgmin, SelectRule::kAllBetter}) {
    s = this->select({nan, inf, nan}, {}, {.rule = rule, .feature = 1});
    EXPECT_EQ(s.teacher, -1);
    EXPECT_EQ(s.kl, V(9, 0));
    EXPECT_EQ(s.feature, V(9, 0));
  }
}

TYPED_TEST(LossSelect, TiesAndLoneMembers) {
  using T = typename TypeParam::Type;
  using V = std::vector<T>;
  auto s = this->select({1, 1}, {}, {});
  EXPECT_EQ(s.teacher, 0);
  EXPECT_EQ(s.kl, (V{0, 0, 1, 0}));
  s = this->select({1, 1}, {}, {.rule = SelectRule::kAllBetter});  // strictly better only
  EXPECT_EQ(s.kl, V(4, 0));
  s = this->select({5}, {}, {});
  EXPECT_EQ(s.teacher, 0);
  EXPECT_EQ(s.kl, V{0});
}

TYPED_TEST(LossSelect, MaskedMemberHasNoFeatureTerm) {
  using T = typename TypeParam::Type;
  using V = std::vector<T>;
  const V ce = {3, 1, 2};
  EXPECT_EQ(this->select(ce, {}, {.feature = 1, .masked = 0}).feature, (V{0, 0, 0, 0, 0, 0, 0, 1, 0}));
  const auto s = this->select(ce, {}, {.feature = 1, .masked = 1});
  EXPECT_EQ(s.feature, V(9, 0));
  EXPECT_EQ(s.kl, (V{0, 1, 0, 0, 0, 0, 0, 1, 0}));  // its logits still teach
}

// With two members the rules coincide, save for exact ties.
TYPED_TEST(LossSelect, RulesCoincideForTwo) {
  using T = typename TypeParam::Type;
  Random rng(base_seed());
  for (int draw = 0; draw < 200; ++draw) {
    const auto ce = rng.uniforms<T>(2, 0, 5);
    const auto a = this->select(ce, {}, {.kl = 0.7});
    const auto b = this->select(ce, {}, {.rule = SelectRule::kAllBetter, .kl = 0.7});
    EXPECT_TRUE(same_bits(a.kl, b.kl));
  }
}

TYPED_TEST(LossSelect, WinnersOfManyRows) {
  using T = typename TypeParam::Type;
  Random rng(base_seed());
  const std::size_t members = 4;
  const std::size_t rows = 10007;
  const auto ce_rows = rng.uniforms<T>(members * rows, 0, 1);
  std::vector<std::int32_t> expected(rows, 0);
  for (std::size_t b = 0; b < rows; ++b) {
    for (std::size_t k = 1; k < members; ++k) {
      const auto best = static_cast<std::size_t>(expected[b]);
      if (ce_rows[k * rows + b] < ce_rows[best * rows + b]) expected[b] = static_cast<std::int32_t>(k);
    }
  }
  for_each_place(TypeParam::device, [&](Place place) {
    EXPECT_EQ(select_on<T>(place, {1, 2, 3, 4}, ce_rows, {}).winner, expected);
  });
}

class LossSelectContract : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(LossSelectContract);

TEST_P(LossSelectContract, RefusesWhatItCannotDo) {
  std::int32_t winner = 0;
  float ce = 1;
  const auto refused = [&](const kernels::LossSelectArgs& args) {
    OnDevice on(GetParam());
    EXPECT_THROW(on.run([&](auto stream) { kernels::loss_select(stream, args); }), Error);
  };
  refused({.members = 1, .rows = 1, .ce = &ce, .row_winner = &winner});
  refused({.dtype = DType::bf16, .members = 1, .ce = &ce});
  refused({.members = 0, .ce = &ce});
}

}  // namespace
}  // namespace cohort::test
