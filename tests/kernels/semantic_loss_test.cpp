#include "kernels/semantic_loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/devices.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace cohort::test {
namespace {

std::size_t workspace_on(const Place& place, [[maybe_unused]] std::int64_t classes) {
  if (place.device == Device::kCpu) return kernels::semantic_loss_workspace(place.cpu, classes);
  if constexpr (kHasDevice) return kernels::semantic_loss_workspace(CudaStream{}, classes);
  return 0;
}

template <class A>
struct Semantics {
  std::int64_t classes, channels;
  std::vector<A> student, teacher;
  A weight = A{3};

  static Semantics draw(std::int64_t classes, std::int64_t channels, std::uint64_t seed) {
    Random random(seed);
    const auto count = static_cast<std::size_t>(classes * channels);
    return {classes, channels, random.normals<A>(count), random.normals<A>(count)};
  }

  struct Result {
    A value, loss;
    std::vector<A> grad;
  };
  Result run(Place place) const {
    OnDevice on(place);
    Guarded<A> value(1), loss(std::vector<A>{A{2}}), grad(student.size());
    const Guarded<A> s(student), t(teacher), w(std::vector<A>{weight});
    Scratch scratch(workspace_on(place, classes));
    const Workspace workspace = on(scratch);
    const kernels::SemanticLossArgs args{.dtype = dtype_of<A>(),
                                         .classes = classes,
                                         .channels = channels,
                                         .student = on(s),
                                         .teacher = on(t),
                                         .weight = on(w),
                                         .grad_student = on(grad),
                                         .value = on(value),
                                         .loss = on(loss)};
    on.run([&](auto stream) { kernels::semantic_loss(stream, args, workspace); });
    EXPECT_TRUE(value.intact() && loss.intact() && grad.intact() && scratch.intact());
    return {value.values()[0], loss.values()[0], grad.values()};
  }
};

// By the definition: whole outer products, every row at length 1.
double reference(const std::vector<double>& s, const std::vector<double>& t, std::int64_t classes,
                 std::int64_t d) {
  double sum = 0;
  for (std::int64_t c = 0; c < classes; ++c) {
    const double *g = s.data() + c * d, *h = t.data() + c * d;
    for (std::int64_t i = 0; i < d; ++i) {
      double length_g = 0, length_h = 0;
      for (std::int64_t j = 0; j < d; ++j) {
        length_g += g[i] * g[j] * g[i] * g[j];
        length_h += h[i] * h[j] * h[i] * h[j];
      }
      for (std::int64_t j = 0; j < d; ++j) {
        const double a = length_g == 0 ? 0 : g[i] * g[j] / std::sqrt(length_g);
        const double b = length_h == 0 ? 0 : h[i] * h[j] / std::sqrt(length_h);
        sum += (a - b) * (a - b);
      }
    }
  }
  return sum / static_cast<double>(classes * d);
}

template <class On>
class SemanticLoss : public TypedDeviceTest<On> {};
using Types = OnDevices<float, double>;
TYPED_TEST_SUITE(SemanticLoss, Types, DeviceNames);

TYPED_TEST(SemanticLoss, IsTheDistanceOfOuterProducts) {
  using A = typename TypeParam::Type;
  std::uint64_t seed = base_seed(17);
  for (const std::int64_t classes : {1, 3, 10}) {
    for (const std::int64_t channels : {1, 2, 7, 33}) {
      COHORT_TRACE_SEED(++seed);
      auto c = Semantics<A>::draw(classes, channels, seed);
      for (A& g : c.student) g = std::abs(g) < A{0.01F} ? A{0.01F} : g;  // away from the jumps of the signs
      std::vector<double> s(c.student.begin(), c.student.end());
      const std::vector<double> t(c.teacher.begin(), c.teacher.end());
      const double expected = reference(s, t, classes, channels), u = 200 * unit_roundoff(dtype_of<A>());
      const auto r = c.run(TypeParam::device);
      EXPECT_NEAR(static_cast<double>(r.value), expected, u * (1 + expected));
      EXPECT_NEAR(static_cast<double>(r.loss), 2 + 3 * expected, 10 * u * (1 + expected));
      for (std::size_t at = 0; at < s.size(); ++at) {
        if (s.size() > 40 && at % 7 != 0) continue;
        const auto shifted = [&](double h) {
          s[at] += h;
          const double value = reference(s, t, classes, channels);
          s[at] -= h;
          return value;
        };
        const double slope = 3 * (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
        EXPECT_NEAR(static_cast<double>(r.grad[at]), slope, 1e-6 + 100 * u * (1 + std::abs(slope)));
      }
      for_each_place(TypeParam::device, [&](Place place) {
        const auto again = c.run(place);
        EXPECT_EQ(again.value, r.value);
        EXPECT_TRUE(same_bits(again.grad, r.grad));
      });
    }
  }
}

// A class that nearly vanishes says as much as any other: lengths of 1e-30 have squares below every float.
TYPED_TEST(SemanticLoss, EqualTinyZeroAndSickClasses) {
  using A = typename TypeParam::Type;
  auto c = Semantics<A>::draw(4, 6, base_seed(19));
  const auto whole = c.run(TypeParam::device);
  for (std::size_t i = 6; i < 12; ++i) c.student[i] *= static_cast<A>(1e-30);
  EXPECT_NEAR(static_cast<double>(c.run(TypeParam::device).value), static_cast<double>(whole.value), 1e-5);
  std::fill_n(c.student.begin() + 6, 6, A{0});
  const auto zero = c.run(TypeParam::device);
  for (std::size_t i = 6; i < 12; ++i) EXPECT_EQ(zero.grad[i], A{0});
  EXPECT_TRUE(std::isfinite(zero.value));
  c.student[0] = std::numeric_limits<A>::quiet_NaN();
  const auto sick = c.run(TypeParam::device);
  EXPECT_TRUE(std::isnan(sick.value) && std::isnan(sick.grad[1]));
  EXPECT_EQ(sick.grad[20], zero.grad[20]) << "of another class";
  c.student = c.teacher;
  EXPECT_NEAR(static_cast<double>(c.run(TypeParam::device).value), 0, 1e-6);
}

class SemanticLossContract : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(SemanticLossContract);

TEST_P(SemanticLossContract, RefusesWhatItCannotDo) {
  std::vector<std::byte> memory(4096);
  OnDevice on(GetParam());
  const float value = 1;
  const auto refused = [&](const kernels::SemanticLossArgs& args) {
    EXPECT_THROW(on.run([&](auto stream) { kernels::semantic_loss(stream, args, memory); }), Error);
  };
  refused({.classes = 1, .channels = 1, .student = &value, .weight = &value});
  refused({.classes = 1, .channels = 0, .student = &value, .teacher = &value, .weight = &value});
}

}  // namespace
}  // namespace cohort::test
