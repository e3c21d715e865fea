// The golden numbers of the method specification (sections 1 and 3.2 to 3.6), printed to 6 decimals there.
#include <gtest/gtest.h>

#include <vector>

#include "tests/support/cohort_case.h"

namespace cohort::test {
namespace {

using kernels::TargetRule;
using Values = std::vector<double>;

template <class Param>
class CohortLossGolden : public TypedDeviceTest<Param> {
 protected:
  void SetUp() override {
    TypedDeviceTest<Param>::SetUp();
    case_device() = Param::device;
  }
  static constexpr double kTol = std::is_same_v<typename Param::Type, double> ? 2e-6 : 1e-5;
  template <class A>
  static ::testing::AssertionResult near(const std::vector<A>& actual, const Values& expected) {
    return all_near(actual, expected, kTol);
  }
};
using Types = OnDevices<double, float>;
TYPED_TEST_SUITE(CohortLossGolden, Types, DeviceNames);

const Values kCe1 = {-0.173504, 0.146704, 0.026800, 0.259943, -0.307430, 0.047487};
const Values kCe2 = {-0.295462, 0.045639, 0.249823, 0.040179, -0.203114, 0.162935};
const Values kDml2 = {-0.417420, -0.055427, 0.472846, -0.179584, -0.098798, 0.278382};

TYPED_TEST(CohortLossGolden, CrossEntropy) {
  using T = typename TypeParam::Type;
  const auto r = golden_case<T>(2).run();
  EXPECT_TRUE(this->near(r.ce_rows, {0.426191, 0.954147, 0.893854, 0.521259}));
  EXPECT_TRUE(this->near(r.ce, {0.690169, 0.707557}));
  EXPECT_TRUE(this->near(r.loss, {0.690169, 0.707557}));
  EXPECT_TRUE(this->near(r.grad[0], kCe1));
  EXPECT_TRUE(this->near(r.grad[1], kCe2));
  EXPECT_EQ(r.top1, (std::vector<std::int32_t>{1, 1}));
  EXPECT_EQ(r.top5, (std::vector<std::int32_t>{2, 2}));
}

// The softmaxes at T = 1, 2, 4: the target that the winner of a one-member cohort sets.
TYPED_TEST(CohortLossGolden, Softmax) {
  using T = typename TypeParam::Type;
  const Values expected[] = {{0.652991, 0.293408, 0.053601, 0.519885, 0.385140, 0.094974, 0.409076, 0.091277,
                              0.499647, 0.080358, 0.593772, 0.325869},
                             {0.511032, 0.342555, 0.146413, 0.437039, 0.376163, 0.186797, 0.387967, 0.183263,
                              0.428770, 0.174458, 0.474226, 0.351316},
                             {0.424810, 0.347805, 0.227385, 0.387370, 0.359380, 0.253251, 0.365155, 0.250967,
                              0.383877, 0.245834, 0.405311, 0.348855}};
  int i = 0;
  for (const double t : {1.0, 2.0, 4.0}) {
    std::vector<T> both;
    for (const auto& z : {kGoldenZ1, kGoldenZ2}) {
      CohortCase<T> c(1, 2, 3);
      c.logits.emplace_back(z.begin(), z.end());
      c.labels = {0, 1};
      c.temperature = t;
      c.share_target(TargetRule::kNaive, 1);
      const auto r = c.run();
      both.insert(both.end(), r.target.begin(), r.target.end());
    }
    EXPECT_TRUE(this->near(both, expected[i++])) << "T = " << t;
  }
}

TYPED_TEST(CohortLossGolden, FrozenTeacher) {
  using T = typename TypeParam::Type;
  auto c = golden_case<T>(2);
  c.temperature = 4;
  c.ce_weight = {0, static_cast<T>(0.1)};
  c.w(1, 0) = static_cast<T>(0.9);
  const auto r = c.run();
  EXPECT_NEAR(static_cast<double>(r.kl_pair[2]), 0.884098, this->kTol);
  EXPECT_NEAR(static_cast<double>(r.loss[1]), 0.866444, this->kTol);
  EXPECT_TRUE(this->near(r.grad[1], {-0.136925, -0.169744, 0.306669, -0.250747, 0.062366, 0.188381}));
  EXPECT_EQ(r.loss[0], 0);
  EXPECT_TRUE(same_bits(r.grad[0], std::vector<T>(6, 0)));
}

TYPED_TEST(CohortLossGolden, MutualLearning) {
  using T = typename TypeParam::Type;
  auto c = golden_case<T>(2);
  c.mutual(1);
  const auto r = c.run();
  EXPECT_TRUE(this->near(r.kl_pair, {0, 0.663124, 0.607597, 0}));
  EXPECT_TRUE(this->near(r.loss, {1.353294, 1.315154}));
  EXPECT_TRUE(this->near(r.grad[0], {-0.051547, 0.247769, -0.196223, 0.479706, -0.411746, -0.067960}));
  EXPECT_TRUE(this->near(r.grad[1], kDml2));
}

TYPED_TEST(CohortLossGolden, MutualLearningPerSample) {
  using T = typename TypeParam::Type;
  const Values expected = {0.817489, 0.508759, 0.528326, 0.686868};
  for (std::size_t b = 0; b < 2; ++b) {
    CohortCase<T> c(2, 1, 3);
    for (const auto& z : {kGoldenZ1, kGoldenZ2}) {
      c.logits.emplace_back(z.begin() + static_cast<std::ptrdiff_t>(3 * b),
                            z.begin() + static_cast<std::ptrdiff_t>(3 * b + 3));
    }
    c.labels = {0};
    c.mutual(1);
    const auto r = c.run();
    EXPECT_NEAR(static_cast<double>(r.kl_pair[1]), expected[b], this->kTol);
    EXPECT_NEAR(static_cast<double>(r.kl_pair[2]), expected[2 + b], this->kTol);
  }
}

TYPED_TEST(CohortLossGolden, MutualLearningAttached) {
  using T = typename TypeParam::Type;
  auto c = golden_case<T>(2);
  c.mutual(1);
  c.attached = true;
  const auto r = c.run();
  EXPECT_NEAR(static_cast<double>(r.loss[0] + r.loss[1]), 2.668447, this->kTol);
  EXPECT_TRUE(this->near(r.grad[0], {-0.071353, 0.341563, -0.270209, 0.786502, -0.627378, -0.159124}));
  EXPECT_TRUE(this->near(r.grad[1], {-0.680282, -0.146026, 0.826308, -0.275045, -0.121323, 0.396368}));
}

TYPED_TEST(CohortLossGolden, MutualLearningOfThree) {
  using T = typename TypeParam::Type;
  auto c = golden_case<T>(3);
  c.mutual(0.5);
  auto r = c.run();
  EXPECT_TRUE(this->near(r.loss, {1.114253, 1.086141, 0.692140}));
  EXPECT_TRUE(this->near(r.grad[0], {-0.108136, 0.222741, -0.114605, 0.453102, -0.403579, -0.049523}));
  EXPECT_TRUE(this->near(r.grad[2], {-0.130082, 0.095218, 0.034864, 0.036714, -0.183624, 0.146909}));
  c.mutual(1);
  r = c.run();
  EXPECT_TRUE(this->near(r.loss, {1.538337, 1.464726, 0.868633}));
  EXPECT_TRUE(this->near(r.grad[0], {-0.042768, 0.298779, -0.256010, 0.646261, -0.499728, -0.146533}));
  EXPECT_TRUE(this->near(r.grad[2], {-0.077882, 0.094741, -0.016860, -0.019959, -0.147800, 0.167759}));
}

struct SharedTarget {
  TargetRule rule;
  Values given, target, kl, loss, grad1, grad2;
};

const SharedTarget kShared[] = {{TargetRule::kNaive,
                                 {},
                                 {0.511032, 0.342555, 0.146413, 0.174458, 0.474226, 0.351316},
                                 {0.343121, 0.395496},
                                 {1.033291, 1.103052},
                                 {-0.173504, 0.146704, 0.026800, 0.522524, -0.405493, -0.117031},
                                 {-0.418527, -0.113654, 0.532180, 0.040179, -0.203114, 0.162935}},
                                {TargetRule::kMinLogit,
                                 {},
                                 {0.568546, 0.268562, 0.162891, 0.197311, 0.536347, 0.266342},
                                 {0.281008, 0.357637},
                                 {0.971178, 1.065194},
                                 {-0.231019, 0.220697, 0.010322, 0.499671, -0.467613, -0.032058},
                                 {-0.476041, -0.039661, 0.515702, 0.017326, -0.265234, 0.247908}},
                                // The targets of the Linear and General rules, given as probabilities.
                                {TargetRule::kGiven,
                                 {0.506118, 0.327253, 0.166629, 0.196531, 0.470233, 0.333235},
                                 {0.506118, 0.327253, 0.166629, 0.196531, 0.470233, 0.333235},
                                 {0.284963, 0.337276},
                                 {0.975133, 1.044833},
                                 {-0.168591, 0.162006, 0.006584, 0.500451, -0.401500, -0.098951},
                                 {-0.413613, -0.098352, 0.511964, 0.018106, -0.199121, 0.181015}},
                                {TargetRule::kGiven,
                                 {0.458903, 0.275081, 0.266016, 0.325814, 0.417702, 0.256485},
                                 {0.458903, 0.275081, 0.266016, 0.325814, 0.417702, 0.256485},
                                 {0.157009, 0.263206},
                                 {0.847178, 0.970763},
                                 {-0.121376, 0.214178, -0.092802, 0.371168, -0.348968, -0.022201},
                                 {-0.366398, -0.046180, 0.412578, -0.111176, -0.146589, 0.257765}}};

TYPED_TEST(CohortLossGolden, SharedTargets) {
  using T = typename TypeParam::Type;
  for (const SharedTarget& g : kShared) {
    SCOPED_TRACE(static_cast<int>(g.rule));
    auto c = golden_case<T>(2);
    c.temperature = 2;
    c.share_target(g.rule, 1);
    c.given.assign(g.given.begin(), g.given.end());
    const auto r = c.run();
    // A target read from 6 decimals shifts T^2 KL by up to about T^2 (ln q - ln p) 5e-7 more.
    const double tol = g.rule == TargetRule::kGiven ? std::max(this->kTol, 5e-6) : this->kTol;
    EXPECT_TRUE(all_near(r.target, g.target, this->kTol));
    EXPECT_TRUE(all_near(r.target_kl, g.kl, tol));
    EXPECT_TRUE(all_near(r.kl, g.kl, tol));
    EXPECT_TRUE(all_near(r.loss, g.loss, tol));
    EXPECT_TRUE(all_near(r.grad[0], g.grad1, tol));
    EXPECT_TRUE(all_near(r.grad[1], g.grad2, tol));
    if (g.rule == TargetRule::kNaive) {
      EXPECT_EQ(r.winner, (std::vector<std::int32_t>{0, 1}));
    }
  }
}

// One winner for the whole batch is a column of W.
TYPED_TEST(CohortLossGolden, NaiveOfTheBatch) {
  using T = typename TypeParam::Type;
  auto c = golden_case<T>(2);
  c.temperature = 2;
  c.w(1, 0) = 1;
  const auto r = c.run();
  EXPECT_TRUE(this->near(r.loss, {0.690169, 1.495483}));
  EXPECT_NEAR(static_cast<double>(r.kl[1]), 0.787926, this->kTol);
  EXPECT_TRUE(this->near(r.grad[0], kCe1));
  EXPECT_TRUE(this->near(r.grad[1], {-0.418527, -0.113654, 0.532180, -0.222402, -0.105051, 0.327453}));
}

// Competitive: W as kernels/loss_select.h writes it. Two networks (teacher 1), then three with both rules.
TYPED_TEST(CohortLossGolden, Competitive) {
  using T = typename TypeParam::Type;
  auto two = golden_case<T>(2);
  two.w(1, 0) = 1;
  auto r = two.run();
  EXPECT_NEAR(static_cast<double>(r.kl[1]), 0.607597, this->kTol);
  EXPECT_NEAR(static_cast<double>(r.loss[0]), 0.690169, this->kTol);
  EXPECT_TRUE(this->near(r.grad[0], kCe1));
  EXPECT_TRUE(this->near(r.grad[1], kDml2));

  auto three = golden_case<T>(3);
  three.w(0, 2) = 1;
  three.w(1, 2) = 1;
  r = three.run();
  EXPECT_TRUE(this->near(r.ce, {0.690169, 0.707557, 0.515647}));
  EXPECT_TRUE(this->near(r.loss, {0.875213, 0.857129, 0.515647}));
  EXPECT_TRUE(this->near(r.grad[0], {-0.164726, 0.197713, -0.032987, 0.426497, -0.395412, -0.031086}));
  EXPECT_TRUE(this->near(r.grad[1], {-0.408641, -0.004417, 0.413059, -0.013029, -0.186780, 0.199809}));

  three.w(1, 2) = static_cast<T>(0.5);
  three.w(1, 0) = static_cast<T>(0.5);
  r = three.run();
  EXPECT_NEAR(static_cast<double>(r.loss[1]), 1.086141, this->kTol);
  EXPECT_TRUE(this->near(r.grad[1], {-0.413030, -0.029922, 0.442952, -0.096307, -0.142789, 0.239096}));
}

}  // namespace
}  // namespace cohort::test
