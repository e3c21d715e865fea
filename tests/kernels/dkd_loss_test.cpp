#include "kernels/dkd_loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/cohort_case.h"

namespace cohort::test {
namespace {

std::size_t workspace_on(const Place& place, [[maybe_unused]] std::int64_t rows) {
  if (place.device == Device::kCpu) return kernels::dkd_loss_workspace(place.cpu, rows);
  if constexpr (kHasDevice) return kernels::dkd_loss_workspace(CudaStream{}, rows);
  return 0;
}

// Member 0 of the case teaches member 1.
template <class T>
struct Dkd {
  using A = Accumulator<T>;
  struct Result {
    A loss, kl, tckd, nckd;
    std::vector<T> grad;
  };

  CohortCase<T> c;
  double temperature = 4, alpha = 1, beta = 8, warmup = 0;
  std::int32_t epoch = -1;
  std::vector<T> accumulate = {};

  Result run(Place place) const {
    OnDevice on(place);
    const auto size = static_cast<std::size_t>(c.rows * c.classes);
    Guarded<A> loss(std::vector<A>{A{1}}), kl(std::vector<A>{A{2}}), tckd(1), nckd(1);
    Guarded<T> grad = accumulate.empty() ? Guarded<T>(size, c.misalign) : Guarded<T>(accumulate, c.misalign);
    kernels::DkdLossArgs args{.dtype = dtype_of<T>(), .rows = c.rows, .classes = c.classes};
    args.temperature = temperature;
    args.alpha = alpha;
    args.beta = beta;
    args.warmup = warmup;
    args.teacher = on(c.logits[0]);
    args.student = on(c.logits[1]);
    args.labels = on(c.labels);
    args.epoch = epoch < 0 ? nullptr : on(epoch);
    args.valid_rows = c.valid < 0 ? nullptr : on(c.valid);
    args.grad_student = on(grad);
    args.grad_mode = accumulate.empty() ? GradMode::kOverwrite : GradMode::kAccumulate;
    args.loss = on(loss);
    args.kl = on(kl);
    args.tckd = on(tckd);
    args.nckd = on(nckd);
    Scratch scratch(workspace_on(place, c.rows));
    const Workspace workspace = on(scratch);
    on.run([&](auto stream) { kernels::dkd_loss(stream, args, workspace); });
    EXPECT_TRUE(loss.intact() && kl.intact() && tckd.intact() && nckd.intact() && grad.intact());
    EXPECT_TRUE(scratch.intact());
    return {loss[0], kl[0], tckd[0], nckd[0], grad.values()};
  }
};

struct Terms {
  double tckd = 0, nckd = 0;
};

std::vector<double> softmax(const double* z, int classes, double temperature, int without = -1) {
  std::vector<double> p;
  double sum = 0;
  for (int c = 0; c < classes; ++c) sum += p.emplace_back(c == without ? 0 : std::exp(z[c] / temperature));
  for (double& v : p) v /= sum;
  return p;
}

double divergence(const std::vector<double>& p, const std::vector<double>& q) {
  double sum = 0;
  for (std::size_t c = 0; c < p.size(); ++c) sum += p[c] == 0 ? 0 : p[c] * std::log(p[c] / q[c]);
  return sum;
}

// One row, straight from the formulas: 1 - b by subtraction.
Terms terms(const double* teacher, const double* student, int classes, int y, double temperature) {
  const double t = softmax(teacher, classes, temperature)[static_cast<std::size_t>(y)];
  const double s = softmax(student, classes, temperature)[static_cast<std::size_t>(y)];
  const double scale = temperature * temperature;
  return {scale * divergence({t, 1 - t}, {s, 1 - s}),
          scale * divergence(softmax(teacher, classes, temperature, y),
                             softmax(student, classes, temperature, y))};
}

template <class Param>
class DkdLoss : public TypedDeviceTest<Param> {};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(DkdLoss, Types, DeviceNames);

TYPED_TEST(DkdLoss, Golden) {
  using T = typename TypeParam::Type;
  if (std::is_same_v<T, bf16>) GTEST_SKIP() << "the golden logits are no bf16 numbers";
  const double tol = std::is_same_v<T, double> ? 2e-6 : 1e-5;
  const auto r = Dkd<T>{golden_case<T>(2)}.run(TypeParam::device);
  EXPECT_NEAR(static_cast<double>(r.tckd), 0.095672, tol);
  EXPECT_NEAR(static_cast<double>(r.nckd), 1.303426, tol);
  EXPECT_NEAR(static_cast<double>(r.loss), 1 + 10.523081, tol);
  EXPECT_NEAR(static_cast<double>(r.kl), 2 + 10.523081, tol);
  EXPECT_TRUE(all_near(
      r.grad, std::vector<double>{-0.119310, -3.302565, 3.421875, -3.098721, 0.091863, 3.006858}, tol));
}

// Values against the formula, gradients against differences of it over five points.
TYPED_TEST(DkdLoss, AgreesWithItsFormula) {
  using T = typename TypeParam::Type;
  Random rng(base_seed());
  const double u = std::is_same_v<T, double> ? 1e-12 : 1e-5;
  for (const int classes : {2, 3, 7, 31, 33, 100}) {
    const int rows = classes == 7 ? 33 : 3;
    Dkd<T> d{CohortCase<T>::random(2, rows, classes, rng), classes % 2 == 0 ? 4.0 : 1.0, 0.7, 2.5};
    d.c.misalign = static_cast<std::size_t>(classes % 3);
    d.c.valid = classes == 31 ? 2 : -1;
    const int valid = d.c.valid < 0 ? rows : d.c.valid;
    std::vector<double> teacher, student;
    for (const T v : d.c.logits[0]) teacher.push_back(static_cast<double>(v));
    for (const T v : d.c.logits[1]) student.push_back(static_cast<double>(v));
    const auto value = [&](int b, const double* z) {
      const Terms r = terms(teacher.data() + b * classes, z, classes, d.c.labels[static_cast<std::size_t>(b)],
                            d.temperature);
      return (d.alpha * r.tckd + d.beta * r.nckd) / valid;
    };
    double expected = 0;
    std::vector<double> grad(student.size(), 0);
    for (int b = 0; b < valid; ++b) {
      expected += value(b, student.data() + b * classes);
      for (int c = 0; c < classes; ++c) {
        const auto at = [&](double h) {
          std::vector<double> z(student.begin() + b * classes, student.begin() + (b + 1) * classes);
          z[static_cast<std::size_t>(c)] += h;
          return value(b, z.data());
        };
        constexpr double h = 1e-2;
        grad[static_cast<std::size_t>(b * classes + c)] =
            (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
      }
    }
    for_each_place(TypeParam::device, [&](Place place) {
      const auto r = d.run(place);
      EXPECT_NEAR(static_cast<double>(r.loss), 1 + expected, u * (1 + expected)) << classes;
      EXPECT_TRUE(all_within(r.grad, grad, [&](std::size_t i) {
        return 1e-7 + 2 * unit_roundoff(dtype_of<T>()) * std::abs(grad[i]) +
               (std::is_same_v<T, double> ? 0 : u);
      })) << classes;
    });
  }
}

// T^2 KL = TCKD + (1 - b_t) NCKD, row by row.
TYPED_TEST(DkdLoss, IsThePlainDivergenceDecoupled) {
  using T = typename TypeParam::Type;
  Random rng(base_seed());
  for (int row = 0; row < 5; ++row) {
    const Dkd<T> d{CohortCase<T>::random(2, 1, 9, rng)};
    std::vector<double> t, s;
    for (const T v : d.c.logits[0]) t.push_back(static_cast<double>(v));
    for (const T v : d.c.logits[1]) s.push_back(static_cast<double>(v));
    const auto p = softmax(t.data(), 9, 4);
    const double whole = 16 * divergence(p, softmax(s.data(), 9, 4));
    const auto r = d.run(TypeParam::device);
    const double others = 1 - p[static_cast<std::size_t>(d.c.labels[0])];
    EXPECT_NEAR(static_cast<double>(r.tckd) + others * static_cast<double>(r.nckd), whole,
                1e-4 * (1 + whole));
  }
}

TYPED_TEST(DkdLoss, WarmUpAccumulationAndRowsThatDoNotCount) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  Random rng(base_seed());
  Dkd<T> d{CohortCase<T>::random(2, 4, 5, rng)};
  d.c.valid = 3;
  const auto whole = d.run(TypeParam::device);
  d.warmup = 8;
  const auto factor = [&](std::int32_t epoch) {
    d.epoch = epoch;
    return static_cast<double>(d.run(TypeParam::device).loss - A{1}) / static_cast<double>(whole.loss - A{1});
  };
  EXPECT_NEAR(factor(0), 1.0 / 8, 1e-5);
  EXPECT_NEAR(factor(3), 0.5, 1e-5);
  EXPECT_EQ(factor(7), 1.0);
  EXPECT_EQ(factor(100), 1.0);
  d.epoch = 1;
  EXPECT_EQ(d.run(TypeParam::device).nckd, whole.nckd) << "reported as they are";
  d.epoch = -1;
  d.accumulate.assign(20, static_cast<T>(1.0F));
  const auto added = d.run(TypeParam::device);
  for (std::size_t i = 0; i < 20; ++i) {
    const A sum = A{1} + static_cast<A>(whole.grad[i]);
    EXPECT_NEAR(static_cast<double>(added.grad[i]), static_cast<double>(sum),
                3 * unit_roundoff(dtype_of<T>()) * (1 + std::abs(static_cast<double>(sum))));
    if (i < 15) continue;
    EXPECT_EQ(static_cast<A>(whole.grad[i]), A{0}) << "of a row that does not count";
    EXPECT_EQ(static_cast<A>(added.grad[i]), A{1});
  }
}

TYPED_TEST(DkdLoss, EqualExtremeAndSickLogits) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  Random rng(base_seed());
  Dkd<T> d{CohortCase<T>::random(2, 3, 6, rng)};
  d.c.logits[1] = d.c.logits[0];
  const auto same = d.run(TypeParam::device);
  EXPECT_EQ(same.loss, A{1});
  for (const T g : same.grad) EXPECT_EQ(static_cast<A>(g), A{0});
  d.c.logits[1][0] = static_cast<T>(3e30F);
  d.c.logits[0][1] = static_cast<T>(-3e30F);
  for (const T g : d.run(TypeParam::device).grad) EXPECT_TRUE(std::isfinite(static_cast<A>(g)));
  d.c.logits[1][7] = static_cast<T>(std::numeric_limits<float>::quiet_NaN());
  const auto sick = d.run(TypeParam::device);
  EXPECT_TRUE(std::isnan(sick.loss));
  EXPECT_TRUE(std::isnan(static_cast<A>(sick.grad[6])));
  EXPECT_TRUE(std::isfinite(static_cast<A>(sick.grad[0]))) << "of another row";
  d.c.logits[1] = d.c.logits[0];
  d.c.labels[2] = 6;
  EXPECT_TRUE(std::isnan(d.run(TypeParam::device).loss));
}

class DkdLossContract : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(DkdLossContract);

TEST_P(DkdLossContract, RefusesWhatItCannotDo) {
  const float value = 0;
  const std::int32_t label = 0;
  const auto refused = [&](kernels::DkdLossArgs args, bool student = true) {
    OnDevice on(GetParam());
    std::vector<std::byte> memory(4096);
    args.teacher = &value;
    args.labels = &label;
    if (student) args.student = &value;
    EXPECT_THROW(on.run([&](auto stream) { kernels::dkd_loss(stream, args, memory); }), Error);
  };
  refused({.rows = 1, .classes = 1});
  refused({.rows = 1, .classes = 2, .temperature = 0});
  refused({.rows = 1, .classes = 2}, false);
}

}  // namespace
}  // namespace cohort::test
