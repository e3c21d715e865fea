#include "kernels/trimmed_l2.h"

#include <gtest/gtest.h>

#include <algorithm>
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

template <class T>
struct Case {
  using A = Accumulator<T>;
  std::int64_t rows = 1, row_size = 1;
  std::vector<T> student, teacher;
  bool per_row = false;
  A weight{1};
  std::int32_t valid = -1;
  std::vector<T> accumulate = {};
  std::size_t misalign = 0;

  struct Result {
    A value, loss;
    std::vector<T> grad;
  };

  Result run(Place place = Device::kCpu) const {
    const Guarded<T> s(student, misalign), t(teacher, misalign + 1);
    Guarded<T> grad(student.size(), misalign);
    if (!accumulate.empty()) grad = Guarded<T>(accumulate, misalign);
    Guarded<A> value(1);
    Guarded<A> loss(std::vector<A>{A{2}});
    const kernels::TrimmedL2Shape shape{dtype_of<T>(), rows, row_size, per_row};
    Scratch scratch(kHasDevice && place.device == Device::kCuda
                        ? device_workspace(shape)
                        : kernels::trimmed_l2_workspace(place.cpu, shape));
    OnDevice on(place);
    const kernels::TrimmedL2Args args{
        .shape = shape,
        .student = on(s),
        .teacher = on(t),
        .weight = on(weight),
        .valid_rows = valid < 0 ? nullptr : on(valid),
        .grad_student = on(grad),
        .grad_mode = accumulate.empty() ? GradMode::kOverwrite : GradMode::kAccumulate,
        .value = on(value),
        .loss = on(loss)};
    const Workspace workspace = on(scratch);
    on.run([&](auto stream) { kernels::trimmed_l2(stream, args, workspace); });
    EXPECT_TRUE(grad.intact() && value.intact() && loss.intact() && scratch.intact());
    return {value[0], loss[0], grad.values()};
  }

  static std::size_t device_workspace(const kernels::TrimmedL2Shape& shape) {
    if constexpr (kHasDevice) return kernels::trimmed_l2_workspace(CudaStream{}, shape);
    return 0;
  }
};

struct Reference {
  double value = 0;
  std::vector<double> grad;
};

// By sorting. Squares as the kernel computes them, so that ties are ties here too.
template <class T>
Reference reference(const Case<T>& c) {
  using A = Accumulator<T>;
  Reference r;
  const std::int64_t rows = c.valid < 0 ? c.rows : c.valid;
  r.grad.resize(c.student.size());
  for (std::size_t i = 0; i < r.grad.size(); ++i)
    r.grad[i] = c.accumulate.empty() ? 0 : static_cast<double>(c.accumulate[i]);
  const std::int64_t groups = c.per_row ? rows : 1, size = c.per_row ? c.row_size : rows * c.row_size;
  if (groups * size == 0) return r;
  const double kept = static_cast<double>(groups * (size - size / 3));
  long double sum = 0;
  for (std::int64_t g = 0; g < groups; ++g) {
    std::vector<A> squares;
    const auto d = [&](std::int64_t i) {
      const auto at = static_cast<std::size_t>(g * size + i);
      return static_cast<A>(c.student[at]) - static_cast<A>(c.teacher[at]);
    };
    for (std::int64_t i = 0; i < size; ++i) squares.push_back(d(i) * d(i));
    std::vector<A> sorted = squares;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    const bool all = size / 3 == 0;
    const A border = all ? A{0} : sorted[static_cast<std::size_t>(size / 3 - 1)];
    const auto above =
        static_cast<double>(std::count_if(squares.begin(), squares.end(), [&](A e) { return e > border; }));
    const auto on = static_cast<double>(std::count(squares.begin(), squares.end(), border));
    const double on_keep = (on - (static_cast<double>(size / 3) - above)) / on;
    for (std::int64_t i = 0; i < size; ++i) {
      const A e = squares[static_cast<std::size_t>(i)];
      const double keep = all || e < border ? 1 : e > border ? 0 : on_keep;
      sum += static_cast<long double>(keep) * static_cast<long double>(e);
      r.grad[static_cast<std::size_t>(g * size + i)] +=
          static_cast<double>(c.weight) * 2 * keep * static_cast<double>(d(i)) / kept;
    }
  }
  r.value = static_cast<double>(sum / static_cast<long double>(kept));
  return r;
}

template <class T>
void expect_reference(const Case<T>& c, Device device) {
  const Reference expected = reference(c);
  const auto r = c.run(device);
  const double u = unit_roundoff(dtype_of<T>()), u_acc = unit_roundoff(accumulator_of(dtype_of<T>()));
  const double tol =
      tolerance({.out = accumulator_of(dtype_of<T>()), .n = 16384}, expected.value, expected.value);
  const auto weight = static_cast<double>(c.weight);
  EXPECT_NEAR(static_cast<double>(r.value), expected.value, tol);
  EXPECT_NEAR(static_cast<double>(r.loss), 2 + weight * expected.value, 4 * weight * tol + 4 * u_acc);
  EXPECT_TRUE(all_within(r.grad, expected.grad, [&](std::size_t i) {
    const double before = c.accumulate.empty() ? 0 : std::abs(static_cast<double>(c.accumulate[i]));
    const double own = std::abs(expected.grad[i]) + before;
    return u * std::abs(expected.grad[i]) + 8 * u_acc * own + 1e-300;
  }));
}

template <class Param>
class TrimmedL2 : public TypedDeviceTest<Param> {};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(TrimmedL2, Types, DeviceNames);

TYPED_TEST(TrimmedL2, MatchesSorting) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = base_seed(420);
  for (const int rows : {1, 2, 3, 7, 33}) {
    for (const int row_size : {1, 2, 3, 31, 64, 257, 1000}) {
      for (const bool per_row : {false, true}) {
        COHORT_TRACE_SEED(++seed);
        Random rng(seed);
        const auto count = static_cast<std::size_t>(rows * row_size);
        Case<T> c{rows, row_size, rng.normals<T>(count), rng.normals<T>(count), per_row};
        c.weight = static_cast<typename Case<T>::A>(rng.uniform(0.1, 2));
        if (rng.chance(0.4)) c.valid = rng.integer(0, rows);
        if (rng.chance(0.4)) c.accumulate = rng.normals<T>(count);
        c.misalign = static_cast<std::size_t>(rng.integer(0, 3));
        expect_reference(c, TypeParam::device);
      }
    }
  }
}

// Few different squares: whole digits are equal, and the border runs through a crowd.
TYPED_TEST(TrimmedL2, TiesShareWhatIsLeftOut) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = base_seed(77);
  for (const int most : {0, 1, 2, 5}) {
    for (const bool per_row : {false, true}) {
      COHORT_TRACE_SEED(++seed);
      Random rng(seed);
      const std::size_t count = 5 * 1500;
      expect_reference(Case<T>{5, 1500, rng.integers<T>(count, 0, most), std::vector<T>(count, T{}), per_row},
                       TypeParam::device);
    }
  }
}

// Several chunks on both devices.
TYPED_TEST(TrimmedL2, ManyChunks) {
  using T = typename TypeParam::Type;
  Random rng(base_seed());
  const std::size_t count = 3 * 9001;
  Case<T> c{3, 9001, rng.normals<T>(count), rng.normals<T>(count)};
  for (const bool per_row : {false, true}) {
    c.per_row = per_row;
    expect_reference(c, TypeParam::device);
    const auto one = c.run(TypeParam::device);
    for_each_place(TypeParam::device, [&](Place place) {
      const auto other = c.run(place);
      EXPECT_EQ(one.value, other.value);
      EXPECT_TRUE(same_bits(one.grad, other.grad));
    });
  }
}

TYPED_TEST(TrimmedL2, Golden) {
  using T = typename TypeParam::Type;
  if constexpr (std::is_same_v<T, bf16>) return;
  const double tol = std::is_same_v<T, double> ? 2e-6 : 1e-5;
  Case<T> c{2, 4, nhwc<T>(kGoldenF2), nhwc<T>(kGoldenF1)};
  EXPECT_NEAR(static_cast<double>(c.run(TypeParam::device).value), 0.057083, tol);
  c.per_row = true;
  EXPECT_NEAR(static_cast<double>(c.run(TypeParam::device).value), 0.090417, tol);
}

// One sick pixel is among the largest squares: the value says so all the same.
TYPED_TEST(TrimmedL2, WhatIsNotFiniteIsSeen) {
  using T = typename TypeParam::Type;
  for (const float sick : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Random rng(base_seed());
    Case<T> c{2, 30, rng.normals<T>(60), rng.normals<T>(60)};
    c.student[17] = T{sick};
    EXPECT_TRUE(std::isnan(static_cast<double>(c.run(TypeParam::device).value)));
  }
}

TYPED_TEST(TrimmedL2, WeightZeroReadsNothing) {
  using T = typename TypeParam::Type;
  const T nan{std::numeric_limits<float>::quiet_NaN()};
  Case<T> c{3, 777, std::vector<T>(3 * 777, nan), std::vector<T>(3 * 777, nan)};
  c.weight = 0;
  const auto r = c.run(TypeParam::device);
  EXPECT_EQ(static_cast<double>(r.value), 0);
  EXPECT_EQ(static_cast<double>(r.loss), 2);
  EXPECT_TRUE(same_bits(r.grad, std::vector<T>(3 * 777, T{})));
  c.accumulate = Random(3).normals<T>(3 * 777);
  EXPECT_TRUE(same_bits(c.run(TypeParam::device).grad, c.accumulate));
}

class TrimmedL2Contract : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(TrimmedL2Contract);

TEST_P(TrimmedL2Contract, RefusesWhatItCannotDo) {
  const float x = 0;
  const float weight = 1;
  const auto refused = [&](const kernels::TrimmedL2Args& args) {
    OnDevice on(GetParam());
    EXPECT_THROW(on.run([&](auto stream) { kernels::trimmed_l2(stream, args, {}); }), Error);
  };
  refused({.shape = {.rows = 1, .row_size = 1}, .student = &x, .teacher = &x});
  refused({.shape = {.rows = 1, .row_size = 1}, .student = &x, .teacher = &x, .weight = &weight});
  refused({.shape = {.rows = 70000, .row_size = 1, .per_row = true},
           .student = &x,
           .teacher = &x,
           .weight = &weight});
}

}  // namespace
}  // namespace cohort::test
