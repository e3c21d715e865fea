#include "kernels/switch_rule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/cohort_case.h"

namespace cohort::test {
namespace {

using kernels::SwitchRoles;
using Ints = std::vector<std::int32_t>;

std::size_t workspace_on(const Place& place, [[maybe_unused]] const kernels::CohortLossShape& shape) {
  if (place.device == Device::kCpu) return kernels::switch_rule_workspace(place.cpu, shape);
  if constexpr (kHasDevice) return kernels::switch_rule_workspace(CudaStream{}, shape);
  return 0;
}

struct Options {
  SwitchRoles roles = SwitchRoles::kOneTeacher;
  double tau = 1;
  bool guard = true;
  bool code_compat = false;
};

template <class A>
struct Decision {
  std::vector<A> ce, kl;
  Ints mask, mode;
};

template <class T>
Decision<Accumulator<T>> decide(Place place, const CohortCase<T>& c, const Options& o = {}) {
  using A = Accumulator<T>;
  OnDevice on(place);
  const auto m = static_cast<std::size_t>(c.members);
  Guarded<A> ce(m), kl(m * m);
  Guarded<std::int32_t> mask(m), mode(m);
  kernels::SwitchRuleArgs args{.shape = {dtype_of<T>(), c.members, c.rows, c.classes}};
  for (std::size_t k = 0; k < m; ++k) args.logits[k] = on(c.logits[k]);
  args.labels = on(c.labels);
  args.valid_rows = c.valid < 0 ? nullptr : on(c.valid);
  args.roles = o.roles;
  args.tau = o.tau;
  args.guard = o.guard;
  args.code_compat = o.code_compat;
  args.ce_weight = on(ce);
  args.kl_weight = on(kl);
  args.step_mask = on(mask);
  args.mode = on(mode);
  Scratch scratch(workspace_on(place, args.shape));
  const Workspace workspace = on(scratch);
  on.run([&](auto stream) { kernels::switch_rule(stream, args, workspace); });
  EXPECT_TRUE(ce.intact() && kl.intact() && mask.intact() && mode.intact() && scratch.intact());
  return {ce.values(), kl.values(), mask.values(), mode.values()};
}

// The golden networks in another order.
template <class T>
CohortCase<T> golden(const std::vector<int>& order) {
  const auto all = golden_case<T>(3);
  auto c = golden_case<T>(static_cast<int>(order.size()));
  for (std::size_t k = 0; k < order.size(); ++k) c.logits[k] = all.logits[static_cast<std::size_t>(order[k])];
  return c;
}

template <class Param>
class SwitchRule : public TypedDeviceTest<Param> {};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(SwitchRule, Types, DeviceNames);

TYPED_TEST(SwitchRule, Pair) {
  using T = typename TypeParam::Type;
  using V = std::vector<Accumulator<T>>;
  const auto expert = decide<T>(TypeParam::device, golden<T>({0, 1}));
  EXPECT_EQ(expert.ce, (V{0, 1}));
  EXPECT_EQ(expert.kl, (V{0, 0, 1, 0}));
  EXPECT_EQ(expert.mask, (Ints{0, 1}));
  EXPECT_EQ(expert.mode, (Ints{1, -1}));
  const auto learning = decide<T>(TypeParam::device, golden<T>({1, 0}));
  EXPECT_EQ(learning.ce, (V{1, 1}));
  EXPECT_EQ(learning.kl, (V{0, 1, 1, 0}));
  EXPECT_EQ(learning.mask, (Ints{1, 1}));
  EXPECT_EQ(learning.mode, (Ints{0, -1}));
  // t = 0.997 >= s = 0.962 kept it learning; its gap 0.886 exceeds 0.362.
  EXPECT_EQ(decide<T>(TypeParam::device, golden<T>({1, 0}), {.guard = false}).mode, (Ints{1, -1}));
}

TYPED_TEST(SwitchRule, OneTeacherOfTwo) {
  using T = typename TypeParam::Type;
  using V = std::vector<Accumulator<T>>;
  const auto d = decide<T>(TypeParam::device, golden<T>({2, 0, 1}));
  EXPECT_EQ(d.kl, (V{0, 0, 1, 1, 0, 1, 1, 1, 0})) << "an expert for the first student only";
  EXPECT_EQ(d.ce, (V{1, 1, 1}));
  EXPECT_EQ(d.mask, (Ints{1, 1, 1}));
  EXPECT_EQ(d.mode, (Ints{0, -1, -1}));
  // Ahead of two students of the same bits, it is an expert for both.
  const auto both = decide<T>(TypeParam::device, golden<T>({0, 1, 1}));
  EXPECT_EQ(both.kl, (V{0, 0, 0, 1, 0, 1, 1, 1, 0}));
  EXPECT_EQ(both.ce, (V{0, 1, 1}));
  EXPECT_EQ(both.mask, (Ints{0, 1, 1}));
  EXPECT_EQ(both.mode, (Ints{1, -1, -1}));
  const auto code = decide<T>(TypeParam::device, golden<T>({0, 1, 1}), {.code_compat = true});
  EXPECT_EQ(code.kl, both.kl);
  EXPECT_EQ(code.mask, (Ints{1, 1, 1})) << "the code steps it all the same";
  EXPECT_EQ(code.mode, (Ints{1, -1, -1}));
}

TYPED_TEST(SwitchRule, TwoTeachersOfOne) {
  using T = typename TypeParam::Type;
  using V = std::vector<Accumulator<T>>;
  for (const bool compat : {false, true}) {
    const auto d = decide<T>(TypeParam::device, golden<T>({2, 0, 1}),
                             {.roles = SwitchRoles::kTwoTeachers, .code_compat = compat});
    EXPECT_EQ(d.kl, (V{0, 1, 1, 0, 0, 0, 1, 1, 0}));
    EXPECT_EQ(d.ce, (V{1, 0, 1}));
    EXPECT_EQ(d.mask, (Ints{1, 0, 1}));
    EXPECT_EQ(d.mode, (Ints{0, 1, -1}));
  }
}

// The rule in a few lines, on random logits, where neither side of it is rare.
TYPED_TEST(SwitchRule, AgreesWithItsFormula) {
  using T = typename TypeParam::Type;
  Random rng(base_seed());
  int experts = 0, cases = 0;
  for (int draw = 0; draw < 30; ++draw) {
    const int classes = std::vector<int>{2, 3, 10, 33}[static_cast<std::size_t>(draw % 4)];
    auto c = CohortCase<T>::random(2, draw % 5 == 0 ? 33 : 1 + draw % 7, classes, rng, 1);
    for (int b = 0; b < c.rows; ++b) {  // the teacher knows more
      T& own = c.logits[0][static_cast<std::size_t>(b * classes + c.labels[static_cast<std::size_t>(b)])];
      own = static_cast<T>(static_cast<Accumulator<T>>(own) + static_cast<Accumulator<T>>(2));
    }
    c.valid = draw % 3 == 0 && c.rows > 1 ? c.rows - 1 : -1;
    const double tau = draw % 2 == 0 ? 1 : 3;
    const int rows = c.valid < 0 ? c.rows : c.valid;
    double label[2] = {0, 0}, gap = 0;
    for (int b = 0; b < rows; ++b) {
      std::vector<double> p[2];
      for (std::size_t m = 0; m < 2; ++m) {
        double sum = 0;
        for (int k = 0; k < classes; ++k)
          p[m].push_back(
              std::exp(static_cast<double>(c.logits[m][static_cast<std::size_t>(b * classes + k)]) / tau));
        for (const double v : p[m]) sum += v;
        for (double& v : p[m]) v /= sum;
        for (int k = 0; k < classes; ++k)
          label[m] +=
              std::abs(p[m][static_cast<std::size_t>(k)] - (k == c.labels[static_cast<std::size_t>(b)])) /
              rows;
      }
      for (std::size_t k = 0; k < p[0].size(); ++k) gap += std::abs(p[0][k] - p[1][k]) / rows;
    }
    const double t = label[0], s = label[1];
    const double threshold = s - std::exp(-t / (s + t)) * t;
    if (std::abs(gap - threshold) < 1e-3 || std::abs(t - s) < 1e-3) continue;
    const bool expert = gap > threshold && t < s;
    ++cases;
    experts += expert;
    for_each_place(TypeParam::device, [&](Place place) {
      EXPECT_EQ(decide<T>(place, c, {.tau = tau}).mode[0], expert ? 1 : 0) << "draw " << draw;
    });
  }
  EXPECT_GT(experts, 3);
  EXPECT_GT(cases - experts, 3);
}

TYPED_TEST(SwitchRule, EqualPerfectAndSickNetworksLearn) {
  using T = typename TypeParam::Type;
  const T huge = static_cast<T>(1e30F), zero{}, nan = static_cast<T>(std::numeric_limits<float>::quiet_NaN());
  CohortCase<T> c(2, 1, 2);
  c.labels = {0};
  c.logits = {{huge, zero}, {huge, zero}};  // s + t = 0
  for (const bool guard : {true, false})
    EXPECT_EQ(decide<T>(TypeParam::device, c, {.guard = guard}).mode[0], 0);
  c.logits[0] = {nan, zero};
  EXPECT_EQ(decide<T>(TypeParam::device, c, {.guard = false}).mode[0], 0);
  c.logits[0] = {huge, zero};
  c.logits[1] = {zero, zero};
  EXPECT_EQ(decide<T>(TypeParam::device, c).mode[0], 0) << "its gap of 1 is the threshold: not above it";
  c.labels = {7};
  EXPECT_EQ(decide<T>(TypeParam::device, c, {.guard = false}).mode[0], 0);
}

class SwitchRuleContract : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(SwitchRuleContract);

TEST_P(SwitchRuleContract, RefusesWhatItCannotDo) {
  float value = 0;
  std::int32_t number = 0;
  const auto refused = [&](kernels::SwitchRuleArgs args) {
    OnDevice on(GetParam());
    std::vector<std::byte> memory(4096);
    args.labels = args.step_mask = args.mode = &number;
    args.ce_weight = args.kl_weight = &value;
    for (auto& z : args.logits) z = &value;
    EXPECT_THROW(on.run([&](auto stream) { kernels::switch_rule(stream, args, memory); }), Error);
  };
  refused({.shape = {DType::f32, 4, 1, 1}});
  refused({.shape = {DType::f32, 2, 1, 1}, .roles = SwitchRoles::kTwoTeachers});
  refused({.shape = {DType::f32, 2, 1, 1}, .tau = 0});
  refused({.shape = {DType::f32, 2, 1, 0}});
}

}  // namespace
}  // namespace cohort::test
