#include "kernels/gated_ensemble.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/cohort_case.h"

namespace cohort::test {
namespace {

std::size_t workspace_on(const Place& place, [[maybe_unused]] const kernels::CohortLossShape& shape) {
  if (place.device == Device::kCpu) return kernels::gated_ensemble_workspace(place.cpu, shape);
  if constexpr (kHasDevice) return kernels::gated_ensemble_workspace(CudaStream{}, shape);
  return 0;
}

template <class T>
struct Gated {
  using A = Accumulator<T>;
  struct Result {
    A loss, value;
    std::vector<A> gate, target, grad_gate, grad_scores;
    std::vector<std::vector<T>> grad;
  };

  CohortCase<T> c;
  std::vector<A> scores;
  double temperature = 3;
  bool accumulate = false;  // into ones

  Result run(Place place) const {
    OnDevice on(place);
    kernels::GatedEnsembleArgs args{.shape = {dtype_of<T>(), c.members, c.rows, c.classes}};
    const auto size = static_cast<std::size_t>(c.rows * c.classes);
    const auto gates = static_cast<std::size_t>(c.rows * c.members);
    const GradMode mode = accumulate ? GradMode::kAccumulate : GradMode::kOverwrite;
    std::vector<Guarded<T>> grad;
    for (std::size_t m = 0; m < c.logits.size(); ++m)
      grad.push_back(accumulate ? Guarded<T>(std::vector<T>(size, static_cast<T>(1.0F)), c.misalign)
                                : Guarded<T>(size, c.misalign));
    for (std::size_t m = 0; m < c.logits.size(); ++m) {
      args.logits[m] = on(c.logits[m]);
      args.grad_logits[m] = on(grad[m]);
      args.grad_mode[m] = mode;
    }
    Guarded<A> loss(std::vector<A>{A{1}}), value(1), gate(gates), target(size, c.misalign), grad_gate(gates);
    Guarded<A> grad_scores = accumulate ? Guarded<A>(std::vector<A>(gates, A{1})) : Guarded<A>(gates);
    args.scores = on(scores);
    args.labels = on(c.labels);
    args.temperature = temperature;
    args.valid_rows = c.valid < 0 ? nullptr : on(c.valid);
    args.gate = on(gate);
    args.target = on(target);
    args.grad_gate = on(grad_gate);
    args.grad_scores = on(grad_scores);
    args.scores_mode = mode;
    args.loss = on(loss);
    args.value = on(value);
    Scratch scratch(workspace_on(place, args.shape));
    const Workspace workspace = on(scratch);
    on.run([&](auto stream) { kernels::gated_ensemble(stream, args, workspace); });
    EXPECT_TRUE(loss.intact() && value.intact() && gate.intact() && target.intact());
    EXPECT_TRUE(grad_gate.intact() && grad_scores.intact() && scratch.intact());
    Result r{loss[0], value[0], gate.values(), target.values(), grad_gate.values(), grad_scores.values(), {}};
    for (const Guarded<T>& g : grad) {
      EXPECT_TRUE(g.intact());
      r.grad.push_back(g.values());
    }
    return r;
  }
};

std::vector<double> softmax(std::vector<double> z, double temperature) {
  double sum = 0;
  for (double& v : z) sum += v = std::exp(v / temperature);
  for (double& v : z) v /= sum;
  return z;
}

std::vector<double> mixed(const std::vector<std::vector<double>>& z, const std::vector<double>& g) {
  std::vector<double> sum(z[0].size(), 0.0);
  for (std::size_t m = 0; m < z.size(); ++m)
    for (std::size_t k = 0; k < sum.size(); ++k) sum[k] += g[m] * z[m][k];
  return sum;
}

// The cross-entropy of one row, straight from the formula.
double row_loss(const std::vector<std::vector<double>>& z, const std::vector<double>& g, int label) {
  return -std::log(softmax(mixed(z, g), 1)[static_cast<std::size_t>(label)]);
}

// Five points around `at`.
template <class F>
double slope(F f) {
  constexpr double h = 1e-3;
  return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h);
}

template <class Param>
class GatedEnsemble : public TypedDeviceTest<Param> {};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(GatedEnsemble, Types, DeviceNames);

// g = [.6, .4; .3, .7] as scores ln g.
TYPED_TEST(GatedEnsemble, Golden) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  if (std::is_same_v<T, bf16>) GTEST_SKIP() << "the golden logits are no bf16 numbers";
  const double tol = std::is_same_v<T, double> ? 2e-6 : 1e-5;
  Gated<T> gated{golden_case<T>(2), {}};
  for (const double g : {.6, .4, .3, .7}) gated.scores.push_back(static_cast<A>(std::log(g)));
  const auto r = gated.run(TypeParam::device);
  EXPECT_NEAR(static_cast<double>(r.value), 0.494891, tol);
  EXPECT_NEAR(static_cast<double>(r.loss), 1.494891, tol);
  EXPECT_TRUE(all_near(r.gate, std::vector<double>{.6, .4, .3, .7}, tol));
  EXPECT_TRUE(all_near(r.grad_gate, std::vector<double>{-0.276973, -0.145781, -0.153817, -0.234691}, tol));
}

TYPED_TEST(GatedEnsemble, AgreesWithItsFormula) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  Random rng(base_seed());
  const double tol = std::is_same_v<T, double> ? 1e-9 : 2e-5;
  const double rounding = std::is_same_v<T, bf16> ? 4e-3 : 0;  // of gradients written as bf16
  for (const int classes : {1, 2, 3, 7, 31, 33}) {
    const int members = classes == 33 ? 16 : 1 + classes % 4;
    const int rows = classes == 7 ? 33 : 3;
    Gated<T> gated{CohortCase<T>::random(members, rows, classes, rng), {}};
    gated.scores = rng.normals<A>(static_cast<std::size_t>(members * rows));
    gated.c.misalign = static_cast<std::size_t>(classes % 3);
    gated.c.valid = classes == 31 ? 2 : -1;
    const int valid = gated.c.valid < 0 ? rows : gated.c.valid;
    for_each_place(TypeParam::device, [&](Place place) {
      const auto r = gated.run(place);
      double total = 0;
      for (int b = 0; b < rows; ++b) {
        const auto at = [&](int i, int width) { return static_cast<std::size_t>(b * width + i); };
        std::vector<std::vector<double>> z;
        std::vector<double> scores;
        for (int m = 0; m < members; ++m) {
          z.emplace_back();
          for (int k = 0; k < classes; ++k)
            z.back().push_back(
                static_cast<double>(gated.c.logits[static_cast<std::size_t>(m)][at(k, classes)]));
          scores.push_back(static_cast<double>(gated.scores[at(m, members)]));
        }
        const std::vector<double> g = softmax(scores, 1);
        const int label = gated.c.labels[static_cast<std::size_t>(b)];
        const double counts = b < valid ? 1 : 0, share = counts / valid;
        total += share * row_loss(z, g, label);
        const std::vector<double> target = softmax(mixed(z, g), gated.temperature);
        for (int k = 0; k < classes; ++k)
          EXPECT_NEAR(static_cast<double>(r.target[at(k, classes)]),
                      counts * target[static_cast<std::size_t>(k)], tol);
        for (std::size_t m = 0; m < z.size(); ++m) {
          const auto i = at(static_cast<int>(m), members);
          EXPECT_NEAR(static_cast<double>(r.gate[i]), counts * g[m], tol);
          const auto along = [&](std::vector<double> from, bool through_softmax) {
            return share * slope([&](double h) {
                     std::vector<double> moved = from;
                     moved[m] += h;
                     return row_loss(z, through_softmax ? softmax(moved, 1) : moved, label);
                   });
          };
          EXPECT_NEAR(static_cast<double>(r.grad_gate[i]), along(g, false), tol);
          EXPECT_NEAR(static_cast<double>(r.grad_scores[i]), along(scores, true), tol);
          for (int k = 0; k < classes; k += 5) {
            const double expected = share * slope([&](double h) {
                                      auto moved = z;
                                      moved[m][static_cast<std::size_t>(k)] += h;
                                      return row_loss(moved, g, label);
                                    });
            EXPECT_NEAR(static_cast<double>(r.grad[m][at(k, classes)]), expected,
                        tol + rounding * std::abs(expected))
                << classes << " classes, row " << b;
          }
        }
      }
      EXPECT_NEAR(static_cast<double>(r.value), total, tol * (1 + total));
    });
  }
}

// More rows than a grid has warps: every warp takes several, one after the other.
TYPED_TEST(GatedEnsemble, RowsThatShareAWarpAreIndependent) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  constexpr std::size_t kDistinct = 37, kRows = 1024 + kDistinct;  // 256 blocks of four warps
  constexpr std::size_t kMembers = 2, kClasses = 3;
  Random rng(base_seed());
  auto c = CohortCase<T>::random(kMembers, kRows, kClasses, rng);
  Gated<T> gated{c, rng.normals<A>(kMembers * kRows)};
  for (std::size_t b = kDistinct; b < kRows; ++b) {
    const std::size_t like = b % kDistinct;
    gated.c.labels[b] = gated.c.labels[like];
    for (std::size_t m = 0; m < kMembers; ++m) {
      gated.scores[b * kMembers + m] = gated.scores[like * kMembers + m];
      for (std::size_t k = 0; k < kClasses; ++k)
        gated.c.logits[m][b * kClasses + k] = gated.c.logits[m][like * kClasses + k];
    }
  }
  const auto r = gated.run(TypeParam::device);
  for (std::size_t b = kDistinct; b < kRows; ++b) {
    const std::size_t like = b % kDistinct;
    for (std::size_t m = 0; m < kMembers; ++m) {
      ASSERT_EQ(r.gate[b * kMembers + m], r.gate[like * kMembers + m]) << "row " << b;
      ASSERT_EQ(r.grad_scores[b * kMembers + m], r.grad_scores[like * kMembers + m]) << "row " << b;
      for (std::size_t k = 0; k < kClasses; ++k)
        ASSERT_EQ(static_cast<double>(r.grad[m][b * kClasses + k]),
                  static_cast<double>(r.grad[m][like * kClasses + k]))
            << "row " << b;
    }
    for (std::size_t k = 0; k < kClasses; ++k)
      ASSERT_EQ(r.target[b * kClasses + k], r.target[like * kClasses + k]) << "row " << b;
  }
}

TYPED_TEST(GatedEnsemble, AddsToGradientsAndKeepsThoseOfRowsThatDoNotCount) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  Random rng(base_seed());
  Gated<T> gated{CohortCase<T>::random(3, 4, 5, rng), rng.normals<A>(12)};
  gated.c.valid = 3;
  const auto plain = gated.run(TypeParam::device);
  gated.accumulate = true;
  const auto added = gated.run(TypeParam::device);
  for (std::size_t i = 0; i < 12; ++i)
    EXPECT_NEAR(static_cast<double>(added.grad_scores[i]), 1 + static_cast<double>(plain.grad_scores[i]),
                1e-6);
  for (std::size_t m = 0; m < 3; ++m) {
    for (std::size_t i = 0; i < 20; ++i) {
      const double sum = 1 + static_cast<double>(static_cast<A>(plain.grad[m][i]));
      EXPECT_NEAR(static_cast<double>(static_cast<A>(added.grad[m][i])), sum,
                  3 * unit_roundoff(dtype_of<T>()) * (1 + std::abs(sum)));
      if (i < 15) continue;
      EXPECT_EQ(static_cast<A>(plain.grad[m][i]), A{0});
      EXPECT_EQ(static_cast<A>(added.grad[m][i]), A{1});
    }
  }
}

TYPED_TEST(GatedEnsemble, ExtremeAndSickRowsStayByThemselves) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  Random rng(base_seed());
  Gated<T> gated{CohortCase<T>::random(2, 3, 4, rng), std::vector<A>(6, A{0})};
  gated.c.logits[0][0] = static_cast<T>(1e30F);
  gated.scores[0] = -std::numeric_limits<A>::infinity();  // a share of 0
  gated.scores[2] = A{500};
  const auto fine = gated.run(TypeParam::device);
  EXPECT_TRUE(std::isfinite(fine.value));
  EXPECT_EQ(fine.gate[0], A{0});
  EXPECT_EQ(fine.gate[2], A{1});
  gated.c.logits[1][4] = static_cast<T>(std::numeric_limits<float>::quiet_NaN());
  gated.c.labels[2] = 9;
  const auto sick = gated.run(TypeParam::device);
  EXPECT_TRUE(std::isnan(sick.value));
  EXPECT_TRUE(std::isnan(sick.target[4]));
  EXPECT_TRUE(std::isnan(static_cast<A>(sick.grad[0][8]))) << "of the label that is no class";
  EXPECT_TRUE(std::isfinite(static_cast<A>(sick.grad[0][1])));
  EXPECT_EQ(sick.target[0], fine.target[0]);
}

class GatedEnsembleContract : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(GatedEnsembleContract);

TEST_P(GatedEnsembleContract, RefusesWhatItCannotDo) {
  const float value = 0;
  const std::int32_t label = 0;
  const auto refused = [&](kernels::GatedEnsembleArgs args, bool scores = true) {
    OnDevice on(GetParam());
    std::vector<std::byte> memory(4096);
    args.logits[0] = &value;
    args.labels = &label;
    if (scores) args.scores = &value;
    EXPECT_THROW(on.run([&](auto stream) { kernels::gated_ensemble(stream, args, memory); }), Error);
  };
  refused({.shape = {DType::f32, 0, 1, 2}});
  refused({.shape = {DType::f32, 1, 1, 0}});
  refused({.shape = {DType::f32, 1, 1, 2}, .temperature = 0});
  refused({.shape = {DType::f32, 1, 1, 2}}, false);
}

}  // namespace
}  // namespace cohort::test
