#include "kernels/relation_loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/devices.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace cohort::test {
namespace {

std::size_t workspace_on(const Place& place, [[maybe_unused]] std::int64_t rows) {
  if (place.device == Device::kCpu) return kernels::relation_loss_workspace(place.cpu, rows);
  if constexpr (kHasDevice) return kernels::relation_loss_workspace(CudaStream{}, rows);
  return 0;
}

template <class A>
struct Relations {
  std::int64_t rows;
  std::vector<A> student, teacher;
  A weight = A{3};
  std::int32_t valid = -1;

  static Relations draw(std::int64_t rows, std::uint64_t seed) {
    Random random(seed);
    const auto count = static_cast<std::size_t>(rows * rows);
    return {rows, random.normals<A>(count, 0.5), random.normals<A>(count, 0.5)};
  }

  struct Result {
    A value, loss;
    std::vector<A> grad;
  };
  Result run(Place place) const {
    OnDevice on(place);
    Guarded<A> value(1), loss(std::vector<A>{A{2}}), grad(student.size());
    const Guarded<A> s(student), t(teacher), w(std::vector<A>{weight});
    Scratch scratch(workspace_on(place, rows));
    const Workspace workspace = on(scratch);
    const kernels::RelationLossArgs args{.dtype = dtype_of<A>(),
                                         .rows = rows,
                                         .student = on(s),
                                         .teacher = on(t),
                                         .weight = on(w),
                                         .valid_rows = valid < 0 ? nullptr : on(valid),
                                         .grad_student = on(grad),
                                         .value = on(value),
                                         .loss = on(loss)};
    on.run([&](auto stream) { kernels::relation_loss(stream, args, workspace); });
    EXPECT_TRUE(value.intact() && loss.intact() && grad.intact() && scratch.intact());
    return {value.values()[0], loss.values()[0], grad.values()};
  }
};

// The sum over the first n rows and columns, in double.
double reference(const std::vector<double>& s, const std::vector<double>& t, std::int64_t rows,
                 std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    double length_s = 0, length_t = 0;
    for (std::int64_t j = 0; j < n; ++j) {
      const auto at = static_cast<std::size_t>(i * rows + j);
      length_s += s[at] * s[at];
      length_t += t[at] * t[at];
    }
    for (std::int64_t j = 0; j < n; ++j) {
      const auto at = static_cast<std::size_t>(i * rows + j);
      const double d =
          s[at] / std::max(std::sqrt(length_s), 1e-12) - t[at] / std::max(std::sqrt(length_t), 1e-12);
      sum += d * d;
    }
  }
  return sum / static_cast<double>(n * n);
}

template <class On>
class RelationLoss : public TypedDeviceTest<On> {};
using Types = OnDevices<float, double>;
TYPED_TEST_SUITE(RelationLoss, Types, DeviceNames);

TYPED_TEST(RelationLoss, ValueAndGradientMatchReference) {
  using A = typename TypeParam::Type;
  std::uint64_t seed = base_seed(11);
  for (const std::int64_t rows : {1, 3, 7, 31, 33}) {
    for (const bool short_batch : {false, true}) {
      COHORT_TRACE_SEED(++seed);
      auto c = Relations<A>::draw(rows, seed);
      std::int64_t n = rows;
      if (short_batch) c.valid = static_cast<std::int32_t>(n = rows - rows / 3);
      std::vector<double> s(c.student.begin(), c.student.end());
      const std::vector<double> t(c.teacher.begin(), c.teacher.end());
      const double expected = reference(s, t, rows, n), u = 200 * unit_roundoff(dtype_of<A>());
      const auto r = c.run(TypeParam::device);
      EXPECT_NEAR(static_cast<double>(r.value), expected, u);
      EXPECT_NEAR(static_cast<double>(r.loss), 2 + 3 * expected, 10 * u);
      for (std::int64_t i = 0; i < rows; ++i) {
        for (std::int64_t j = 0; j < rows; ++j) {
          const auto at = static_cast<std::size_t>(i * rows + j);
          if (i >= n || j >= n) {
            EXPECT_EQ(r.grad[at], A{0});
            continue;
          }
          if (rows > 7 && (i + j) % 5 != 0) continue;
          const auto shifted = [&](double h) {
            s[at] += h;
            const double value = reference(s, t, rows, n);
            s[at] -= h;
            return value;
          };
          const double slope = 3 * (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
          EXPECT_NEAR(static_cast<double>(r.grad[at]), slope, 1e-8 + 100 * u * (1 + std::abs(slope)));
        }
      }
      for_each_place(TypeParam::device, [&](Place place) {
        const auto again = c.run(place);
        EXPECT_EQ(again.value, r.value);
        EXPECT_TRUE(same_bits(again.grad, r.grad));
      });
    }
  }
}

TYPED_TEST(RelationLoss, EqualZeroAndSickRows) {
  using A = typename TypeParam::Type;
  auto c = Relations<A>::draw(5, base_seed(13));
  c.teacher = c.student;
  EXPECT_NEAR(static_cast<double>(c.run(TypeParam::device).value), 0, 1e-12);
  std::fill_n(c.student.begin(), 5, A{0});
  const auto zero = c.run(TypeParam::device);
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(zero.grad[i], A{0}) << "no direction";
  for (std::size_t i = 5; i < 25; ++i)
    EXPECT_NEAR(static_cast<double>(zero.grad[i]), 0, 1e-6) << "equal rows";
  EXPECT_GT(zero.value, A{0});
  c.student[7] = std::numeric_limits<A>::quiet_NaN();
  const auto sick = c.run(TypeParam::device);
  EXPECT_TRUE(std::isnan(sick.value) && std::isnan(sick.grad[5]));
  EXPECT_FALSE(std::isnan(sick.grad[10]));
}

class RelationLossContract : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(RelationLossContract);

TEST_P(RelationLossContract, RefusesWhatItCannotDo) {
  std::vector<std::byte> memory(4096);
  OnDevice on(GetParam());
  const float value = 1;
  const auto refused = [&](const kernels::RelationLossArgs& args) {
    EXPECT_THROW(on.run([&](auto stream) { kernels::relation_loss(stream, args, memory); }), Error);
  };
  refused({.rows = 1, .teacher = &value, .weight = &value});
  refused({.dtype = DType::bf16, .rows = 1, .student = &value, .teacher = &value, .weight = &value});
}

}  // namespace
}  // namespace cohort::test
