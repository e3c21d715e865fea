// cohort_loss against its formula in double, on awkward shapes with every option drawn at random, and its
// gradients against differences of its own values.
#include "kernels/cohort_loss.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/support/cohort_case.h"
#include "tests/support/cohort_checks.h"
#include "tests/support/shapes.h"

namespace cohort::test {
namespace {

using kernels::TargetRule;

template <class Param>
class CohortLoss : public TypedDeviceTest<Param> {
 protected:
  void SetUp() override {
    TypedDeviceTest<Param>::SetUp();
    case_device() = Param::device;
  }
  // The emulated device executes a million threads a second.
  static constexpr bool kSlow = Param::device != Device::kCpu && kEmulated;
};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(CohortLoss, Types, DeviceNames);

TYPED_TEST(CohortLoss, MatchesReferenceOnAwkwardShapes) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = base_seed(100);
  for (const int classes : kClassCounts) {
    for (const int rows : kBatches) {
      for (int members = 1; members <= 5; ++members) {
        // The largest shapes once per count of members is enough: small ones find the edges.
        if (rows * classes > 10000 && members != 2) continue;
        ++seed;
        if (this->kSlow && seed % (rows * members > 21 ? 24 : 4) != 0) continue;
        COHORT_TRACE_SEED(seed);
        SCOPED_TRACE(::testing::Message() << members << " members, " << rows << " x " << classes);
        const auto c = draw_case<T>(members, rows, classes, seed);
        expect_matches(c, c.run());
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

TYPED_TEST(CohortLoss, SixteenMembers) {
  using T = typename TypeParam::Type;
  for (std::uint64_t seed = 7; seed < 10; ++seed) {
    auto c = draw_case<T>(kernels::kMaxMembers, 9, 17, seed);
    c.mutual(0.1);
    expect_matches(c, c.run());
  }
}

// Rows that are longer than a warp's, a small block's, and what fits on chip with softmaxes, with logits, not
// at all.
TYPED_TEST(CohortLoss, LongRows) {
  using T = typename TypeParam::Type;
  const std::pair<int, int> shapes[] = {{2, 257},  {3, 1001}, {2, 2048}, {2, 2049},  {16, 1600},
                                        {8, 2048}, {2, 5003}, {4, 4001}, {2, 21841}, {3, 21841}};
  std::uint64_t seed = base_seed(300);
  for (const auto& [members, classes] : shapes) {
    COHORT_TRACE_SEED(++seed);
    SCOPED_TRACE(::testing::Message() << members << " members, " << classes << " classes");
    const auto c = draw_case<T>(members, 2, classes, seed);
    expect_matches(c, c.run());
  }
}

// A member's results with nobody's weight on it are its own, in whatever company: also where the company is
// too large to stay on chip.
TYPED_TEST(CohortLoss, CompanyDoesNotChangeBits) {
  using T = typename TypeParam::Type;
  for (const int classes : {100, 1001, 3001, 21841}) {
    SCOPED_TRACE(classes);
    Random rng(static_cast<std::uint64_t>(classes));
    const auto c = CohortCase<T>::random(5, 2, classes, rng);
    CohortCase<T> alone(1, 2, classes);
    alone.logits = {c.logits[3]};
    alone.labels = c.labels;
    const auto many = c.run();
    const auto one = alone.run();
    EXPECT_TRUE(same_bits(many.grad[3], one.grad[0]));
    EXPECT_EQ(many.loss[3], one.loss[0]);
  }
}

TYPED_TEST(CohortLoss, SameBitsInEveryRun) {
  using T = typename TypeParam::Type;
  const int part = this->kSlow ? 4 : 1;
  for (const auto& [rows, classes] : {std::pair{33, 100}, std::pair{8, 1000}, std::pair{128, 10}}) {
    for (std::uint64_t seed = 1; seed <= (this->kSlow ? 1 : 6); ++seed) {
      COHORT_TRACE_SEED(seed);
      const auto c = draw_case<T>(3, rows / part, classes, seed);
      const auto one = c.run();
      for_each_place(TypeParam::device, [&](Place place) {
        const auto many = c.run(place);
        for (std::size_t m = 0; m < 3; ++m) EXPECT_TRUE(same_bits(one.grad[m], many.grad[m]));
        EXPECT_TRUE(same_bits(one.loss, many.loss));
        EXPECT_TRUE(same_bits(one.kl_pair, many.kl_pair));
        EXPECT_TRUE(same_bits(one.ce_rows, many.ce_rows));
        EXPECT_EQ(one.top5, many.top5);
      });
    }
  }
}

// f(x) by the 5-point stencil.
template <class F>
double derivative(double& x, F&& f) {
  const double at = x;
  const double h = 1e-3 * std::max(1.0, std::abs(at));
  const auto value = [&](double step) {
    x = at + step * h;
    return f();
  };
  const double d = (8 * (value(1) - value(-1)) - (value(2) - value(-2))) / (12 * h);
  x = at;
  return d;
}

void expect_gradient(CohortCase<double>& c) {
  c.accumulate.clear();
  if (c.rule != TargetRule::kNone) {  // targets are constants: freeze what the rule makes of these logits
    c.given = c.run().target;
    c.rule = TargetRule::kGiven;
  }
  const auto r = c.run();
  for (std::size_t m = 0; m < c.logits.size(); ++m) {
    double largest = 0;
    for (const double g : r.grad[m]) largest = std::max(largest, std::abs(g));
    for (std::size_t x = 0; x < c.logits[m].size(); ++x) {
      const double numeric = derivative(c.logits[m][x], [&] {
        const auto v = c.run();
        if (!c.attached) return v.loss[m];
        double all = 0;
        for (const double l : v.loss) all += l;
        return all;
      });
      ASSERT_NEAR(r.grad[m][x], numeric, 1e-7 * largest + 1e-10) << "member " << m << " logit " << x;
    }
  }
}

class CohortLossGradient : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    case_device() = GetParam();
  }
};
COHORT_INSTANTIATE_DEVICES(CohortLossGradient);

TEST_P(CohortLossGradient, AgreesWithDifferences) {
  const std::uint64_t last = GetParam() == Device::kCpu ? 40 : 3;
  for (std::uint64_t seed = 1; seed <= last; ++seed) {
    COHORT_TRACE_SEED(seed);
    Random rng(seed);
    auto c = draw_case<double>(rng.integer(1, 4), rng.integer(1, 4), rng.integer(2, 12), seed);
    expect_gradient(c);
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace cohort::test
