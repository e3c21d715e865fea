// What must hold for any logits: independence at weight 0, zero at equality, symmetry, sick members, edge
// inputs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/cohort_case.h"
#include "tests/support/shapes.h"

namespace cohort::test {
namespace {

using kernels::TargetRule;

constexpr int kDraws = 300;
constexpr int kSlowDraws = 8;  // the emulated device executes a million threads a second
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

template <class F>
void for_each_seed(int draws, F&& f) {
  const std::uint64_t first = base_seed(1000);
  if (case_device() != Device::kCpu && kEmulated) draws = std::min(draws, kSlowDraws);
  for (std::uint64_t seed = first; seed < first + static_cast<std::uint64_t>(draws); ++seed) {
    COHORT_TRACE_SEED(seed);
    Random rng(seed);
    f(rng);
    if (::testing::Test::HasFailure()) return;
  }
}

CohortCase<float> draw(Random& rng, int members) {
  auto c =
      CohortCase<float>::random(members, rng.integer(1, 20), rng.integer(2, 40), rng, rng.uniform(0.1, 6));
  const double temperatures[] = {1, 2, 3, 0.25, 20};
  c.temperature = temperatures[rng.integer(0, 4)];
  return c;
}

CohortCase<float> alone(const CohortCase<float>& c, int m) {
  CohortCase<float> one(1, c.rows, c.classes);
  one.logits = {c.logits[static_cast<std::size_t>(m)]};
  one.labels = c.labels;
  one.ce_weight = {c.ce_weight[static_cast<std::size_t>(m)]};
  return one;
}

void expect_member(const CohortCase<float>::Result& a, int i, const CohortCase<float>::Result& b, int j) {
  const auto x = static_cast<std::size_t>(i);
  const auto y = static_cast<std::size_t>(j);
  EXPECT_TRUE(same_bits(a.grad[x], b.grad[y]));
  using Values = std::vector<float>;
  EXPECT_TRUE(same_bits(Values{a.loss[x], a.ce[x], a.kl[x]}, Values{b.loss[y], b.ce[y], b.kl[y]}));
  EXPECT_EQ(a.top1[x], b.top1[y]);
  EXPECT_EQ(a.top5[x], b.top5[y]);
}

class OnEveryDevice : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    case_device() = GetParam();
  }
};
class CohortLossProperty : public OnEveryDevice {};
class CohortLossEdge : public OnEveryDevice {};
COHORT_INSTANTIATE_DEVICES(CohortLossProperty);
COHORT_INSTANTIATE_DEVICES(CohortLossEdge);

TEST_P(CohortLossProperty, WeightZeroIsIndependentToTheBit) {
  for_each_seed(kDraws, [](Random& rng) {
    auto c = draw(rng, rng.integer(2, 5));
    const int own = rng.integer(0, c.members - 1);
    c.mutual(rng.chance(0.5) ? 0.7 : 0);  // the others may teach each other
    for (int j = 0; j < c.members; ++j) c.w(own, j) = 0;
    c.share_target(rng.chance(0.5) ? TargetRule::kNone : TargetRule::kNaive, 1);
    c.target_weight[static_cast<std::size_t>(own)] = 0;
    c.ce_weight[static_cast<std::size_t>(own)] = static_cast<float>(rng.uniform(0.1, 2));
    c.all_pairs = rng.chance(0.3);
    expect_member(c.run(), own, alone(c, own).run(), 0);
  });
}

TEST_P(CohortLossProperty, SickMemberTouchesOnlyItsStudents) {
  for_each_seed(kDraws, [](Random& rng) {
    auto c = draw(rng, 4);
    c.mutual(0.5);
    const int sick = rng.integer(0, 3);
    const int student = (sick + 1) % 4;
    for (int i = 0; i < 4; ++i) c.w(i, sick) = i == student ? 1 : 0;
    const auto healthy = c.run();
    const float values[] = {kNaN, kInf, -kInf};
    for (float& z : c.logits[static_cast<std::size_t>(sick)]) z = values[rng.integer(0, 2)];
    c.all_pairs = rng.chance(0.5);
    const auto r = c.run();
    for (int i = 0; i < 4; ++i) {
      if (i == sick) continue;
      if (i == student) {
        EXPECT_TRUE(std::isnan(r.loss[static_cast<std::size_t>(i)]));
      } else {
        expect_member(r, i, healthy, i);
      }
    }
    EXPECT_FALSE(std::isfinite(r.ce[static_cast<std::size_t>(sick)]));
    EXPECT_EQ(r.top1[static_cast<std::size_t>(sick)], 0);
    EXPECT_EQ(r.top5[static_cast<std::size_t>(sick)], 0);
  });
}

TEST_P(CohortLossProperty, SickMemberNeverSetsTheNaiveTarget) {
  for_each_seed(kDraws, [](Random& rng) {
    auto c = draw(rng, 3);
    c.share_target(TargetRule::kNaive, 1);
    const auto sick = static_cast<std::size_t>(rng.integer(0, 2));
    c.logits[sick][static_cast<std::size_t>(rng.integer(0, c.rows * c.classes - 1))] = kNaN;
    c.target_weight[sick] = 0;
    const auto r = c.run();
    for (int b = 0; b < c.rows; ++b) {
      const auto row = static_cast<std::size_t>(b);
      const auto winner = r.winner[row];
      ASSERT_GE(winner, 0);
      ASSERT_TRUE(std::isfinite(r.ce_rows[static_cast<std::size_t>(winner * c.rows + b)]));
    }
    for (std::size_t m = 0; m < 3; ++m) EXPECT_EQ(std::isfinite(r.loss[m]), m != sick);
  });
}

TEST_P(CohortLossProperty, NobodyFiniteMeansNoTarget) {
  CohortCase<float> c(2, 2, 3);
  c.logits = {{kNaN, 0, 0, 1, 2, 3}, {0, kNaN, 0, 1, 2, 3}};
  c.labels = {0, 1};
  c.share_target(TargetRule::kNaive, 1);
  const auto r = c.run();
  EXPECT_EQ(r.winner, (std::vector<std::int32_t>{-1, 0}));  // row 1: a tie, lowest index
  EXPECT_TRUE(std::isnan(r.target[0]) && std::isnan(r.loss[0]) && std::isnan(r.loss[1]));
  EXPECT_TRUE(std::isfinite(r.target[3]));
}

TEST_P(CohortLossProperty, EqualMembersHaveNothingToTeach) {
  for_each_seed(kDraws, [](Random& rng) {
    auto c = draw(rng, 3);
    c.logits[1] = c.logits[0];
    c.logits[2] = c.logits[0];
    c.mutual(1.3);
    c.attached = rng.chance(0.3);
    c.misalign = static_cast<std::size_t>(rng.integer(0, 3));
    c.share_target(rng.chance(0.5) ? TargetRule::kNaive : TargetRule::kNone, 0.9);
    const auto r = c.run();
    EXPECT_TRUE(same_bits(r.kl, std::vector<float>(3, 0.0F)));
    EXPECT_TRUE(same_bits(r.kl_pair, std::vector<float>(9, 0.0F)));
    if (!c.attached) {
      for (int i = 0; i < 3; ++i) expect_member(r, i, alone(c, i).run(), 0);
    }
  });
}

TEST_P(CohortLossProperty, EqualMembersHaveTheMinLogitTarget) {
  for_each_seed(50, [](Random& rng) {
    auto c = draw(rng, 2);
    c.temperature = 2;
    c.logits[1] = c.logits[0];
    c.share_target(TargetRule::kMinLogit, 1);
    const auto r = c.run();
    EXPECT_TRUE(all_near(r.kl, std::vector<float>(2, 0.0F), 2e-5));
  });
}

// Two members: bitwise. More: the order of a sum changes.
TEST_P(CohortLossProperty, PermutingMembersPermutesResults) {
  for_each_seed(kDraws, [](Random& rng) {
    auto c = draw(rng, 2);
    c.w(0, 1) = static_cast<float>(rng.uniform(0, 2));
    c.w(1, 0) = static_cast<float>(rng.uniform(0, 2));
    c.attached = rng.chance(0.3);
    c.share_target(rng.chance(0.5) ? TargetRule::kMinLogit : TargetRule::kNaive, 0.4);
    auto swapped = c;
    std::swap(swapped.logits[0], swapped.logits[1]);
    std::swap(swapped.w(0, 1), swapped.w(1, 0));
    const auto a = c.run();
    const auto b = swapped.run();
    expect_member(a, 0, b, 1);
    expect_member(a, 1, b, 0);
    EXPECT_TRUE(same_bits(a.target, b.target));
  });
}

TEST_P(CohortLossProperty, PermutingRowsPermutesRows) {
  for_each_seed(kDraws, [](Random& rng) {
    auto c = draw(rng, 2);
    c.mutual(1);
    auto reversed = c;
    const auto k = static_cast<std::ptrdiff_t>(c.classes);
    std::reverse(reversed.labels.begin(), reversed.labels.end());
    const auto reverse_rows = [&](std::vector<float> z) {
      const std::vector<float> from = z;
      for (std::ptrdiff_t b = 0; b < c.rows; ++b) {
        std::copy_n(from.begin() + b * k, k, z.begin() + (c.rows - 1 - b) * k);
      }
      return z;
    };
    for (auto& z : reversed.logits) z = reverse_rows(z);
    const auto a = c.run();
    const auto b = reversed.run();
    for (std::size_t m = 0; m < 2; ++m) EXPECT_TRUE(same_bits(reverse_rows(a.grad[m]), b.grad[m]));
  });
}

TEST_P(CohortLossProperty, GradientRowsSumToZeroAndDivergencesAreNotNegative) {
  for_each_seed(kDraws, [](Random& rng) {
    auto c = draw(rng, 3);
    c.mutual(1);
    c.attached = rng.chance(0.5);
    const auto r = c.run();
    for (const auto& grad : r.grad) {
      for (int b = 0; b < c.rows; ++b) {
        double sum = 0;
        double magnitude = 0;
        for (int k = 0; k < c.classes; ++k) {
          const double g = static_cast<double>(grad[static_cast<std::size_t>(b * c.classes + k)]);
          sum += g;
          magnitude += std::abs(g);
        }
        EXPECT_NEAR(sum, 0, 4e-6 * (magnitude + c.temperature / c.rows));
      }
    }
    for (const float kl : r.kl_pair) EXPECT_GE(kl, -1e-6 * c.temperature * c.temperature);
  });
}

// Logits in steps of 1/8: a shift by an integer is exact, so nothing may change.
TEST_P(CohortLossProperty, ShiftingLogitsChangesNothing) {
  for_each_seed(kDraws, [](Random& rng) {
    auto c = draw(rng, 2);
    for (auto& z : c.logits) {
      for (float& v : z) v = std::round(v * 8) / 8;
    }
    c.mutual(1);
    const auto a = c.run();
    for (auto& z : c.logits) {
      const auto shift = static_cast<float>(rng.integer(-64, 64));
      for (float& v : z) v += shift;
    }
    const auto b = c.run();
    expect_member(a, 0, b, 0);
    expect_member(a, 1, b, 1);
  });
}

TEST_P(CohortLossProperty, ScalingLogitsAndTemperatureByTwoKeepsTheSoftTarget) {
  for_each_seed(kDraws, [](Random& rng) {
    auto c = draw(rng, 1);
    c.share_target(TargetRule::kNaive, 1);
    const auto a = c.run();
    c.temperature *= 2;
    for (float& v : c.logits[0]) v *= 2;
    EXPECT_TRUE(same_bits(a.target, c.run().target));
  });
}

TEST_P(CohortLossProperty, TemperatureFactor) {
  for_each_seed(50, [](Random& rng) {
    auto c = draw(rng, 2);
    c.temperature = 4;
    c.ce_weight = {0, 0};
    c.mutual(1);
    const auto with = c.run();
    c.t_squared = false;
    const auto without = c.run();
    for (std::size_t x = 0; x < with.grad[0].size(); ++x) EXPECT_EQ(with.grad[0][x], 16 * without.grad[0][x]);
    EXPECT_EQ(with.kl_pair[1], 16 * without.kl_pair[1]);
  });
}

TEST_P(CohortLossProperty, DuplicatingTheBatchHalvesGradients) {
  for_each_seed(100, [](Random& rng) {
    auto c = draw(rng, 2);
    c.mutual(1);
    auto twice = c;
    twice.rows *= 2;
    twice.labels.insert(twice.labels.end(), c.labels.begin(), c.labels.end());
    for (std::size_t m = 0; m < 2; ++m) {
      twice.logits[m].insert(twice.logits[m].end(), c.logits[m].begin(), c.logits[m].end());
    }
    const auto a = c.run();
    const auto b = twice.run();
    EXPECT_TRUE(all_within(b.loss, a.loss,
                           [&](std::size_t m) { return 1e-6 * std::abs(static_cast<double>(a.loss[m])); }));
    for (std::size_t x = 0; x < a.grad[0].size(); ++x) {
      EXPECT_NEAR(a.grad[0][x], 2 * b.grad[0][x], 1e-6 * c.temperature * 2);
    }
  });
}

TEST_P(CohortLossProperty, OnlyValidRowsCount) {
  for_each_seed(kDraws, [](Random& rng) {
    auto c = draw(rng, 2);
    c.mutual(1);
    c.share_target(TargetRule::kNaive, 0.5);
    c.valid = rng.integer(0, c.rows);
    const auto a = c.run();
    const auto valid = static_cast<std::size_t>(c.valid);
    const auto k = static_cast<std::size_t>(c.classes);
    for (std::size_t m = 0; m < 2; ++m) {
      for (std::size_t x = valid * k; x < a.grad[m].size(); ++x) EXPECT_EQ(a.grad[m][x], 0);
    }
    for (std::size_t b = valid; b < a.winner.size(); ++b) EXPECT_EQ(a.winner[b], -1);
    if (valid == 0) {
      EXPECT_TRUE(same_bits(a.loss, std::vector<float>(2, 0.0F)));
      return;
    }
    auto cut = c;
    cut.valid = -1;
    cut.rows = c.valid;
    cut.labels.resize(valid);
    for (auto& z : cut.logits) z.resize(valid * k);
    const auto b = cut.run();
    EXPECT_TRUE(same_bits(a.loss, b.loss));
    for (std::size_t m = 0; m < 2; ++m) {
      EXPECT_TRUE(same_bits(std::vector<float>(a.grad[m].begin(), a.grad[m].begin() + c.valid * c.classes),
                            b.grad[m]));
    }
  });
}

TEST_P(CohortLossProperty, TeacherSideGetsNoGradient) {
  for_each_seed(100, [](Random& rng) {
    auto c = draw(rng, 2);
    c.ce_weight = {1, 0};
    c.w(0, 1) = 1;
    const auto r = c.run();
    EXPECT_TRUE(same_bits(r.grad[1], std::vector<float>(r.grad[1].size(), 0.0F)));
  });
}

// A mixture of labels is the mixture of the losses, and labels of weight 0 are never looked at.
TEST_P(CohortLossProperty, MixedLabelsAreLinear) {
  for_each_seed(100, [](Random& rng) {
    auto c = draw(rng, 2);
    const float lambda = static_cast<float>(rng.uniform(0.1, 0.9));
    auto first = c;
    auto second = c;
    second.labels = rng.integers<std::int32_t>(c.labels.size(), 0, c.classes - 1);
    c.mixed_member = rng.integer(0, 1);
    for (std::size_t b = 0; b < c.labels.size(); ++b) {
      for (const std::int32_t l : {first.labels[b], second.labels[b], -1, 1 << 30})
        c.mixed_labels.push_back(l);
      for (const float w : {lambda, 1 - lambda, 0.0F, 0.0F}) c.mixed_weights.push_back(w);
    }
    const auto a = first.run();
    const auto b = second.run();
    const auto r = c.run();
    const auto m = static_cast<std::size_t>(c.mixed_member);
    expect_member(r, 1 - c.mixed_member, a, 1 - c.mixed_member);
    EXPECT_NEAR(r.ce[m], lambda * a.ce[m] + (1 - lambda) * b.ce[m], 2e-5);
    for (std::size_t x = 0; x < r.grad[m].size(); ++x) {
      EXPECT_NEAR(r.grad[m][x], lambda * a.grad[m][x] + (1 - lambda) * b.grad[m][x], 1e-6);
    }
    EXPECT_EQ(r.top1[m], a.top1[m]);  // label 0 is the main one
  });
}

// --- edge inputs ---

template <class T>
void expect_uniform(int classes) {
  CohortCase<T> c(1, 4, classes);
  c.logits = {std::vector<T>(static_cast<std::size_t>(4 * classes), T{3.5F})};
  c.labels = {0, classes - 1, 0, 1};
  const auto r = c.run();
  const double exact = std::log(static_cast<double>(classes));
  EXPECT_NEAR(static_cast<double>(r.ce[0]), exact, 4 * unit_roundoff(accumulator_of(dtype_of<T>())) * exact);
  if ((classes & (classes - 1)) != 0) return;
  for (std::size_t b = 0; b < 4; ++b) {
    double sum = 0;
    for (std::size_t k = 0; k < static_cast<std::size_t>(classes); ++k) {
      const double g = static_cast<double>(r.grad[0][b * static_cast<std::size_t>(classes) + k]);
      if (static_cast<std::int32_t>(k) != c.labels[b]) {
        EXPECT_EQ(g, 0.25 / classes);
      }
      sum += g;
    }
    EXPECT_EQ(sum, 0);
  }
}

TEST_P(CohortLossEdge, EqualLogits) {
  for (const int classes : {2, 3, 8, 10, 64, 100, 1000, 1024}) {
    SCOPED_TRACE(classes);
    expect_uniform<float>(classes);
    expect_uniform<double>(classes);
  }
}

TEST_P(CohortLossEdge, HugeLogitsStayFinite) {
  for (const float huge : {1e4F, 1e30F, 3e38F}) {
    for (const double t : {1e-3, 1.0, 20.0}) {
      SCOPED_TRACE(::testing::Message() << huge << " at T = " << t);
      CohortCase<float> c(3, 2, 3);
      c.logits = {{huge, -huge, 0, -huge, huge, huge}, {-huge, huge, 0, huge, -huge, 0}, {1, 2, 3, 0, 0, 0}};
      c.labels = {1, 0};
      c.temperature = t;
      for (const auto rule : {TargetRule::kNone, TargetRule::kNaive, TargetRule::kMinLogit}) {
        c.mutual(1);
        c.share_target(rule, 1);
        const auto r = c.run();
        for (std::size_t m = 0; m < 3; ++m) {
          EXPECT_FALSE(std::isnan(r.loss[m]));
          EXPECT_TRUE(std::isfinite(r.ce[m]));
          for (const float g : r.grad[m]) EXPECT_LE(std::abs(g), (1 + 3 * t) / 2 + 1e-6);
        }
      }
    }
  }
}

TEST_P(CohortLossEdge, OneHotTeacherIsCrossEntropy) {
  for_each_seed(100, [](Random& rng) {
    auto c = draw(rng, 2);
    c.temperature = 1;
    c.share_target(TargetRule::kGiven, 1);
    c.ce_weight = {1, 0};
    c.given.assign(static_cast<std::size_t>(c.rows * c.classes), 0.0F);
    for (int b = 0; b < c.rows; ++b) {
      c.given[static_cast<std::size_t>(b * c.classes + c.labels[static_cast<std::size_t>(b)])] = 1;
    }
    const auto r = c.run();
    EXPECT_TRUE(same_bits(r.target_kl, r.ce));
    c.rule = TargetRule::kNone;
    c.ce_weight = {1, 1};
    const auto plain = c.run();
    for (std::size_t x = 0; x < r.grad[1].size(); ++x) EXPECT_NEAR(r.grad[1][x], plain.grad[1][x], 1e-7);
  });
}

TEST_P(CohortLossEdge, UnderflowOfTheStudentIsFinite) {
  CohortCase<float> c(2, 1, 2);
  c.logits = {{0, -500}, {0, 0}};  // softmax underflows to 0 where the teacher has 1/2
  c.labels = {0};
  c.w(0, 1) = 1;
  const auto r = c.run();
  EXPECT_NEAR(r.kl[0], 250 - std::log(2.0), 1e-4);
}

TEST_P(CohortLossEdge, LabelsOutOfRangeAreNaNAndWrong) {
  for (const std::int32_t bad : {-1, 3, 255, std::numeric_limits<std::int32_t>::min()}) {
    auto c = golden_case<float>(2);
    const auto good = c.run();
    c.labels[1] = bad;
    const auto r = c.run();
    EXPECT_TRUE(std::isnan(r.loss[0]) && std::isnan(r.ce_rows[1]));
    EXPECT_EQ(r.ce_rows[0], good.ce_rows[0]);
    EXPECT_EQ(r.top5[0], 1);
    for (std::size_t x = 0; x < 3; ++x) {
      EXPECT_EQ(r.grad[0][x], good.grad[0][x]);
      EXPECT_TRUE(std::isnan(r.grad[0][3 + x]));
    }
    c.share_target(TargetRule::kMinLogit, 1);
    EXPECT_TRUE(std::isnan(c.run().target[3]));
    // Where CE has weight 0 the label does not matter.
    c.share_target(TargetRule::kNone, 0);
    c.ce_weight[0] = 0;
    c.w(0, 1) = 1;
    const auto taught = c.run();
    EXPECT_NEAR(taught.loss[0], 0.663124, 1e-5);
    for (const float g : taught.grad[0]) EXPECT_TRUE(std::isfinite(g));
  }
}

// The minimum over members would drop a NaN: it must reach the target of its row, and of no other.
TEST_P(CohortLossEdge, MinLogitCarriesNaN) {
  auto c = golden_case<float>(2);
  c.logits[1][2] = kNaN;
  c.share_target(TargetRule::kMinLogit, 1);
  const auto r = c.run();
  for (std::size_t k = 0; k < 3; ++k) {
    EXPECT_TRUE(std::isnan(r.target[k]) && std::isnan(r.grad[0][k]));
    EXPECT_TRUE(std::isfinite(r.target[3 + k]) && std::isfinite(r.grad[0][3 + k]));
  }
}

TEST_P(CohortLossEdge, AccuracyTakesTheFirstOfEqualLogits) {
  CohortCase<float> c(1, 4, 8);
  c.logits = {
      {1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 0, 9, 8, 7, 6, 5, 4, 3, kNaN, 1, 2, 3, 4, 5, 6, 7}};
  c.labels = {0, 5, 5, 7};  // first, sixth of equals, fifth, NaN in the row
  const auto r = c.run();
  EXPECT_EQ(r.top1[0], 1);
  EXPECT_EQ(r.top5[0], 2);
}

TEST_P(CohortLossEdge, NaiveTiesGoToTheLowestMember) {
  auto c = golden_case<float>(2);
  c.logits[1] = c.logits[0];
  c.share_target(TargetRule::kNaive, 1);
  EXPECT_EQ(c.run().winner, (std::vector<std::int32_t>{0, 0}));
}

TEST_P(CohortLossEdge, RefusesWhatItCannotDo) {
  float z[2] = {};
  kernels::CohortLossArgs args{.shape = {DType::f32, 1, 1, 2}};
  args.logits[0] = z;
  OnDevice on(GetParam());
  const auto refused = [&] {
    EXPECT_THROW(on.run([&](auto stream) { kernels::cohort_loss(stream, args, {}); }), Error);
  };
  refused();  // no labels
  const std::int32_t label = 0;
  args.labels = &label;
  refused();  // no workspace
  args.temperature = 0;
  refused();
  args.temperature = 1;
  args.shape.members = kernels::kMaxMembers + 1;
  refused();
}

}  // namespace
}  // namespace cohort::test
