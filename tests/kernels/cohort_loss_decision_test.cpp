// cohort_loss with a decision between the cross-entropies and the gradients: in one launch where the batch
// fits, against the three calls that it stands for (the same bits) and the formula with the W that the rule
// gives.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/cohort_checks.h"
#include "tests/support/shapes.h"

#if defined(COHORT_EMULATED_DEVICE)
#include "tests/simt/runtime/runtime.h"
#include "tests/simt/support/flavour.h"
#endif

namespace cohort::test {
namespace {

using kernels::SelectRule;
using kernels::TargetRule;

constexpr int kRows[] = {1, 3, 33, 127};
constexpr int kClasses[] = {2, 7, 100, 300};

// loss_select's rule, on the losses of the reference.
struct Choice {
  int teacher = -1;
  std::vector<double> weights, features;
};

Choice choose(const std::vector<double>& ce, SelectRule rule, double kl, double feature, int masked) {
  const auto m = static_cast<int>(ce.size());
  const auto loss = [&](int k) { return ce[static_cast<std::size_t>(k)]; };
  Choice choice;
  for (int k = 0; k < m; ++k) {
    if (std::isfinite(loss(k)) && (choice.teacher < 0 || loss(k) < loss(choice.teacher))) choice.teacher = k;
  }
  for (int i = 0; i < m; ++i) {
    const auto teaches = [&](int j) {
      if (rule == SelectRule::kArgmin) return j == choice.teacher && i != j;
      return std::isfinite(loss(j)) && loss(j) < loss(i);
    };
    int teachers = 0;
    for (int j = 0; j < m; ++j) teachers += teaches(j) ? 1 : 0;
    for (int j = 0; j < m; ++j) {
      const double share = teaches(j) ? 1.0 / teachers : 0;
      choice.weights.push_back(kl * share);
      choice.features.push_back(i == masked || j == masked ? 0 : feature * share);
    }
  }
  return choice;
}

template <class T>
CohortCase<T> draw_decision(int members, int rows, int classes, std::uint64_t seed) {
  Random rng(seed);
  auto c = draw_case<T>(members, rows, classes, seed);
  c.decision.emplace();
  c.decision->rule = rng.chance(0.5) ? SelectRule::kArgmin : SelectRule::kAllBetter;
  c.decision->kl = rng.uniform(0.1, 2);
  c.decision->feature = rng.uniform(0, 2);
  c.decision->masked = rng.integer(-1, members - 1);
  return c;
}

template <class T>
typename CohortCase<T>::Result in_steps(CohortCase<T> c) {
  c.decision->in_steps = true;
  return c.run();
}

template <class T>
void expect_decided(const CohortCase<T>& c, const typename CohortCase<T>::Result& r) {
  using A = Accumulator<T>;
  CohortCase<T> chosen = c;
  chosen.kl_weight.assign(static_cast<std::size_t>(c.members * c.members), A{0});
  const Choice choice =
      choose(reference(chosen).ce, c.decision->rule, c.decision->kl, c.decision->feature, c.decision->masked);
  EXPECT_EQ(r.teacher, choice.teacher);
  for (std::size_t x = 0; x < choice.weights.size(); ++x) {
    chosen.kl_weight[x] = static_cast<A>(choice.weights[x]);
    EXPECT_EQ(r.weights[x], static_cast<A>(choice.weights[x])) << x;
    EXPECT_EQ(r.feature_weights[x], static_cast<A>(choice.features[x])) << x;
  }
  expect_matches(chosen, r);
}

// ThreadSanitizer pays dearly for every thread of the device.
bool watched_for_races() {
#if defined(COHORT_EMULATED_DEVICE)
  return simt::test::tsan();
#else
  return false;
#endif
}

template <class Param>
class CohortLossDecision : public TypedDeviceTest<Param> {
 protected:
  void SetUp() override {
    TypedDeviceTest<Param>::SetUp();
    case_device() = Param::device;
  }
  static constexpr bool kSlow = Param::device != Device::kCpu && kEmulated;
};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(CohortLossDecision, Types, DeviceNames);

// With every option at random: rows that do not count, mixed labels, shared targets, temperatures, gradients
// that are added.
TYPED_TEST(CohortLossDecision, HasTheBitsOfThreeCallsAndTheValuesOfTheFormula) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = base_seed(500);
  for (const int rows : kRows) {
    for (const int classes : kClasses) {
      for (int members = 1; members <= 8; ++members) {
        ++seed;
        if (this->kSlow && seed % (rows > 3 ? 16 : 5) != 0) continue;
        if (watched_for_races() && rows * classes > 700) continue;
        if (!this->kSlow && rows * classes > 10000 && members != 3) continue;
        COHORT_TRACE_SEED(seed);
        SCOPED_TRACE(::testing::Message() << members << " members, " << rows << " x " << classes);
        const auto c = draw_decision<T>(members, rows, classes, seed);
        const auto r = c.run();
        expect_same_bits(r, in_steps(c));
        if (c.valid != 0) expect_decided(c, r);  // else all losses are 0 in double as well: a tie
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

// Many blocks, each waiting for all others, in other orders; on a CPU other numbers of threads.
TYPED_TEST(CohortLossDecision, SameBitsInEveryRun) {
  using T = typename TypeParam::Type;
  for (const auto& [rows, classes] : {std::pair{13, 10}, std::pair{5, 300}}) {
    const auto c = draw_decision<T>(3, rows, classes, static_cast<std::uint64_t>(rows));
    const auto once = c.run();
    for_each_place(TypeParam::device, [&](Place place) { expect_same_bits(c.run(place), once); });
  }
}

// Members without a finite loss teach nobody; those with one are taught as if the others were not there.
TYPED_TEST(CohortLossDecision, SickMembers) {
  using T = typename TypeParam::Type;
  for (const SelectRule rule : {SelectRule::kArgmin, SelectRule::kAllBetter}) {
    for (const unsigned sick : {0b001U, 0b110U, 0b111U}) {
      SCOPED_TRACE(::testing::Message() << "sick " << sick << " rule " << static_cast<int>(rule));
      Random rng(sick);
      auto c = CohortCase<T>::random(3, 5, 7, rng);
      c.decision = {.rule = rule, .kl = 0.7, .feature = 0.3};
      for (std::size_t m = 0; m < 3; ++m) {
        if ((sick >> m & 1U) != 0) c.logits[m][m] = static_cast<T>(std::numeric_limits<float>::quiet_NaN());
      }
      const auto r = c.run();
      expect_same_bits(r, in_steps(c));
      for (std::size_t m = 0; m < 3; ++m) {
        const bool finite = (sick >> m & 1U) == 0;
        EXPECT_EQ(std::isfinite(static_cast<double>(r.ce[m])), finite);
        EXPECT_EQ(std::isfinite(static_cast<double>(r.loss[m])), finite);
        for (std::size_t i = 0; i < 3 && !finite; ++i) EXPECT_EQ(r.weights[3 * i + m], 0);
      }
      EXPECT_EQ(r.teacher < 0, sick == 0b111U);
      // Rows 3 and 4 are healthy in every member.
      for (const std::size_t b : {3U, 4U}) EXPECT_GE(r.row_winner[b], 0);
      for (std::size_t m = 0; m < 3; ++m) {
        if ((sick >> m & 1U) != 0) {
          EXPECT_NE(r.row_winner[0], static_cast<std::int32_t>(m)) << "its NaN is in row 0";
        }
      }
    }
  }
}

TYPED_TEST(CohortLossDecision, EqualMembersAndNoRows) {
  using T = typename TypeParam::Type;
  Random rng(3);
  auto c = CohortCase<T>::random(3, 4, 5, rng);
  c.logits[2] = c.logits[0];
  c.logits[1] = c.logits[0];
  c.decision.emplace();
  auto r = c.run();
  EXPECT_EQ(r.teacher, 0) << "a tie: the lowest index";
  EXPECT_EQ(r.row_winner, (std::vector<std::int32_t>{0, 0, 0, 0}));
  c.decision->rule = SelectRule::kAllBetter;
  r = c.run();
  EXPECT_TRUE(same_bits(r.weights, std::vector<Accumulator<T>>(9, 0)));
  expect_same_bits(r, in_steps(c));
  c.valid = 0;
  r = c.run();
  EXPECT_TRUE(same_bits(r.loss, std::vector<Accumulator<T>>(3, 0)));
  EXPECT_EQ(r.row_winner, (std::vector<std::int32_t>{-1, -1, -1, -1}));
  expect_same_bits(r, in_steps(c));
}

// The numbers of the method specification (section 3.6): member 3 is best, member 2 has two better ones.
TYPED_TEST(CohortLossDecision, Golden) {
  using T = typename TypeParam::Type;
  auto c = golden_case<T>(3);
  c.decision.emplace();
  auto r = c.run();
  const double tol = std::is_same_v<T, double> ? 2e-6 : std::is_same_v<T, float> ? 1e-5 : 1e-2;
  EXPECT_EQ(r.teacher, 2);
  EXPECT_TRUE(all_near(r.loss, std::vector<double>{0.875213, 0.857129, 0.515647}, tol));
  c.decision->rule = SelectRule::kAllBetter;
  r = c.run();
  EXPECT_TRUE(all_near(r.loss, std::vector<double>{0.875213, 1.086141, 0.515647}, tol));
}

#if defined(COHORT_EMULATED_DEVICE)
template <class T>
int launches_of(int members, int rows, int classes) {
  Random rng(9);
  auto c = CohortCase<T>::random(members, rows, classes, rng);
  c.decision.emplace();
  const int before = simt::calls("launch");
  c.run();
  return simt::calls("launch") - before;
}

// A row per team and room for all blocks: one launch; else three.
TYPED_TEST(CohortLossDecision, OneLaunchWhereTheBatchFits) {
  using T = typename TypeParam::Type;
  if (TypeParam::device == Device::kCpu) GTEST_SKIP() << "there are no launches";
  EXPECT_EQ(launches_of<T>(2, 1, 2), 1);
  EXPECT_EQ(launches_of<T>(8, 13, 10), 1);
  EXPECT_EQ(launches_of<T>(2, 5, 300), 1);
  EXPECT_EQ(launches_of<T>(4, 2, 8000), 1) << "a row that is read again after the barrier";
  EXPECT_EQ(launches_of<T>(16, 6, 250), 3) << "four rows do not fit into a block";
  if (watched_for_races()) return;  // a minute for what is no matter of races
  EXPECT_EQ(launches_of<T>(1, 1700, 2), 3) << "more blocks than there is room for";
  EXPECT_EQ(launches_of<T>(1, 4200, 2), 3) << "more rows than teams";
}
#endif

class CohortLossDecisionEdge : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(CohortLossDecisionEdge);

TEST_P(CohortLossDecisionEdge, RefusesWhatItCannotDo) {
  std::vector<float> z(2), w(1), ce(1);
  std::vector<std::int32_t> label(1, 0);
  std::vector<std::byte> scratch(1 << 20);
  kernels::CohortLossArgs args{.shape = {DType::f32, 1, 1, 2}};
  args.logits[0] = z.data();
  args.labels = label.data();
  args.decision.kl_weight = w.data();
  OnDevice on(GetParam());
  const auto refused = [&] {
    EXPECT_THROW(on.run([&](auto stream) { kernels::cohort_loss(stream, args, scratch); }), Error);
  };
  refused();  // no ce
  args.ce = ce.data();
  args.kl_weight = w.data();
  refused();  // two Ws
}

}  // namespace
}  // namespace cohort::test
