#include "kernels/feature_l2.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/devices.h"
#include "tests/support/feature_fixture.h"
#include "tests/support/guard.h"
#include "tests/support/random.h"
#include "tests/support/shapes.h"
#include "tests/support/tolerance.h"

namespace cohort::test {
namespace {

using kernels::FeatureReduction;

template <class T>
struct Case {
  using A = Accumulator<T>;
  std::int64_t rows = 1, row_size = 1;
  std::vector<T> student, teacher;
  FeatureReduction reduction = FeatureReduction::kMean;
  A weight{1};
  std::int32_t valid = -1;
  std::vector<T> accumulate = {};
  std::size_t misalign = 0;
  bool together = false;  // the teacher's map is aligned like the student's
  bool in_place = false;  // the gradient takes the place of the student's map

  struct Result {
    A value, loss;
    std::vector<T> grad;
  };

  Result run(Place place = Device::kCpu) const {
    Guarded<T> s(student, misalign);
    Guarded<T> t(teacher, misalign + (together ? 0 : 1));
    Guarded<T> grad(student.size(), misalign);
    if (!accumulate.empty()) grad = Guarded<T>(accumulate, misalign);
    if (in_place) grad = Guarded<T>(student, misalign);
    Guarded<A> value(1);
    Guarded<A> loss(std::vector<A>{A{2}});
    Scratch scratch(kernels::feature_l2_workspace(rows * row_size));
    OnDevice on(place);
    const kernels::FeatureL2Args args{
        .dtype = dtype_of<T>(),
        .rows = rows,
        .row_size = row_size,
        .reduction = reduction,
        .student = in_place ? on(grad) : on(s),
        .teacher = on(t),
        .weight = on(weight),
        .valid_rows = valid < 0 ? nullptr : on(valid),
        .grad_student = on(grad),
        .grad_mode = accumulate.empty() ? GradMode::kOverwrite : GradMode::kAccumulate,
        .value = on(value),
        .loss = on(loss)};
    const Workspace workspace = on(scratch);
    on.run([&](auto stream) { kernels::feature_l2(stream, args, workspace); });
    EXPECT_TRUE(s.intact() && t.intact() && grad.intact() && value.intact() && loss.intact() &&
                scratch.intact());
    return {value[0], loss[0], grad.values()};
  }
};

template <class Param>
class FeatureL2 : public TypedDeviceTest<Param> {};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(FeatureL2, Types, DeviceNames);

TYPED_TEST(FeatureL2, MatchesReference) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = base_seed(50);
  for (const int rows : {1, 2, 3, 7, 33}) {
    for (const int row_size : {1, 3, 31, 64, 1000, 4099}) {
      COHORT_TRACE_SEED(++seed);
      Random rng(seed);
      const auto count = static_cast<std::size_t>(rows * row_size);
      Case<T> c{rows, row_size, rng.normals<T>(count), rng.normals<T>(count)};
      c.reduction = static_cast<FeatureReduction>(rng.integer(0, 2));
      c.weight = static_cast<typename Case<T>::A>(rng.uniform(0.1, 2));
      if (rng.chance(0.4)) c.valid = rng.integer(0, rows);
      if (rng.chance(0.4)) c.accumulate = rng.normals<T>(count);
      c.misalign = static_cast<std::size_t>(rng.integer(0, 3));
      c.together = rng.chance(0.5);
      c.in_place = c.accumulate.empty() && rng.chance(0.3);
      const int valid = c.valid < 0 ? rows : c.valid;
      const double scales[] = {1.0 / (valid * row_size), 1.0 / valid, 1.0};
      const double scale = valid == 0 ? 0 : scales[static_cast<int>(c.reduction)];
      const double weight = static_cast<double>(c.weight);
      double sum = 0;
      std::vector<double> grad(count, 0);
      for (std::size_t i = 0; i < count; ++i) {
        if (!c.accumulate.empty()) grad[i] = static_cast<double>(c.accumulate[i]);
        if (static_cast<int>(i) >= valid * row_size) continue;
        const double d = static_cast<double>(c.student[i]) - static_cast<double>(c.teacher[i]);
        sum += d * d;
        grad[i] += weight * 2 * scale * d;
      }
      const auto r = c.run(TypeParam::device);
      const double tol =
          tolerance({.out = accumulator_of(dtype_of<T>()), .n = 8192, .lanes = 4}, scale * sum, scale * sum);
      EXPECT_NEAR(static_cast<double>(r.value), scale * sum, tol);
      EXPECT_NEAR(static_cast<double>(r.loss), 2 + weight * scale * sum, 4 * weight * tol + 1e-6);
      EXPECT_TRUE(all_within(r.grad, grad, [&](std::size_t i) {
        const double before = c.accumulate.empty() ? 0 : std::abs(static_cast<double>(c.accumulate[i]));
        const double u = unit_roundoff(dtype_of<T>());
        const double u_acc = unit_roundoff(accumulator_of(dtype_of<T>()));
        return u * std::abs(grad[i]) + 4 * u_acc * (before + std::abs(grad[i]) + weight * scale * 4) + 1e-300;
      }));
    }
  }
}

// Golden numbers of the competitive feature term; integers of the fixture's differences are exact in f64
// only.
TYPED_TEST(FeatureL2, Golden) {
  using T = typename TypeParam::Type;
  if constexpr (!std::is_same_v<T, bf16>) {
    const double tol = std::is_same_v<T, double> ? 2e-6 : 1e-5;
    Case<T> c{2, 4, nhwc<T>(kGoldenF2), nhwc<T>(kGoldenF1)};
    const double expected[] = {0.132813, 0.531250, 1.062500};
    for (int i = 0; i < 3; ++i) {
      c.reduction = static_cast<FeatureReduction>(i);
      EXPECT_NEAR(static_cast<double>(c.run(TypeParam::device).value), expected[i], tol);
    }
    c.reduction = FeatureReduction::kMean;
    EXPECT_TRUE(all_near(c.run(TypeParam::device).grad,
                         nhwc({-0.025, 0.075, -0.100, -0.025, 0.025, -0.0625, 0.150, -0.150}), tol));
  }
}

// Small integers: sums and gradients are exact in every dtype.
TYPED_TEST(FeatureL2, IntegersAreExact) {
  using T = typename TypeParam::Type;
  Random rng(base_seed());
  const std::size_t count = 8 * 1031;
  Case<T> c{8, 1031, rng.integers<T>(count, -2, 2), rng.integers<T>(count, -2, 2)};
  c.reduction = FeatureReduction::kSum;
  double sum = 0;
  const auto r = c.run(TypeParam::device);
  for (std::size_t i = 0; i < count; ++i) {
    const double d = static_cast<double>(c.student[i]) - static_cast<double>(c.teacher[i]);
    sum += d * d;
    ASSERT_EQ(static_cast<double>(r.grad[i]), 2 * d);
  }
  EXPECT_EQ(static_cast<double>(r.value), sum);
}

// Weight 0: the maps are not read, so a sick teacher or student spreads nothing.
TYPED_TEST(FeatureL2, WeightZeroReadsNothing) {
  using T = typename TypeParam::Type;
  const T nan{std::numeric_limits<float>::quiet_NaN()};
  const std::size_t count = 3 * 777;
  Case<T> c{3, 777, std::vector<T>(count, nan), std::vector<T>(count, nan)};
  c.weight = 0;
  auto r = c.run(TypeParam::device);
  EXPECT_EQ(static_cast<double>(r.value), 0);
  EXPECT_EQ(static_cast<double>(r.loss), 2);
  EXPECT_TRUE(same_bits(r.grad, std::vector<T>(count, T{})));
  c.accumulate = Random(3).normals<T>(count);
  EXPECT_TRUE(same_bits(c.run(TypeParam::device).grad, c.accumulate));
}

TYPED_TEST(FeatureL2, EqualMapsGiveExactlyZero) {
  using T = typename TypeParam::Type;
  const auto map = Random(base_seed()).normals<T>(4000);
  const auto r = Case<T>{4, 1000, map, map}.run(TypeParam::device);
  EXPECT_EQ(static_cast<double>(r.value), 0);
  for (const T g : r.grad) ASSERT_EQ(static_cast<double>(g), 0);
}

TYPED_TEST(FeatureL2, SameBitsInEveryRun) {
  using T = typename TypeParam::Type;
  Random rng(base_seed());
  const std::size_t count = 9 * 8000 + 9;
  Case<T> c{9, 8001, rng.normals<T>(count), rng.normals<T>(count)};
  c.valid = 7;
  const auto one = c.run(TypeParam::device);
  for_each_place(TypeParam::device, [&](Place place) {
    const auto many = c.run(place);
    EXPECT_EQ(one.value, many.value);
    EXPECT_TRUE(same_bits(one.grad, many.grad));
  });
}

class FeatureL2Gradient : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(FeatureL2Gradient);

TEST_P(FeatureL2Gradient, AgreesWithDifferences) {
  Random rng(base_seed());
  Case<double> c{3, 5, rng.normals<double>(15), rng.normals<double>(15)};
  c.weight = 0.7;
  const auto r = c.run(GetParam());
  for (std::size_t i = 0; i < 15; ++i) {
    const double at = c.student[i];
    const double h = 1e-3;
    c.student[i] = at + h;
    const double up = c.weight * c.run(GetParam()).value;
    c.student[i] = at - h;
    const double down = c.weight * c.run(GetParam()).value;
    c.student[i] = at;
    EXPECT_NEAR(r.grad[i], (up - down) / (2 * h), 1e-9);  // a square: central differences are exact
  }
}

class FeatureL2Contract : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(FeatureL2Contract);

TEST_P(FeatureL2Contract, RefusesWhatItCannotDo) {
  const float x = 0;
  const float weight = 1;
  const auto refused = [&](const kernels::FeatureL2Args& args) {
    OnDevice on(GetParam());
    EXPECT_THROW(on.run([&](auto stream) { kernels::feature_l2(stream, args, {}); }), Error);
  };
  refused({.rows = 1, .row_size = 1, .student = &x, .teacher = &x});
  refused({.rows = 1, .row_size = 1, .student = &x, .teacher = &x, .weight = &weight});
}

}  // namespace
}  // namespace cohort::test
