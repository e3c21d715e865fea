#include "kernels/logit_standardise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/devices.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace cohort::test {
namespace {

template <class T>
struct Rows {
  std::int64_t rows, classes;
  std::vector<T> z, grad;
  double factor = 3.1415;

  static Rows draw(std::int64_t rows, std::int64_t classes, std::uint64_t seed) {
    Random random(seed);
    const auto count = static_cast<std::size_t>(rows * classes);
    return {rows, classes, random.normals<T>(count, 1, 3), random.normals<T>(count)};
  }

  std::vector<T> forward(Place place, std::size_t misalign = 0) const {
    const Guarded<T> in(z, misalign);
    Guarded<T> out(z.size(), misalign);
    OnDevice on(place);
    on.run([&](auto stream) {
      kernels::logit_standardise(stream, {.dtype = dtype_of<T>(),
                                          .rows = rows,
                                          .classes = classes,
                                          .factor = factor,
                                          .logits = on(in),
                                          .standardised = on(out)});
    });
    EXPECT_TRUE(out.intact());
    return out.values();
  }

  std::vector<T> backward(Place place, const std::vector<T>& before = {}) const {
    const Guarded<T> in(z), g(grad);
    Guarded<T> out(z.size());
    if (!before.empty()) out = Guarded<T>(before);
    OnDevice on(place);
    on.run([&](auto stream) {
      kernels::logit_standardise_backward(
          stream, {.dtype = dtype_of<T>(),
                   .rows = rows,
                   .classes = classes,
                   .factor = factor,
                   .logits = on(in),
                   .grad_standardised = on(g),
                   .grad_logits = on(out),
                   .mode = before.empty() ? GradMode::kOverwrite : GradMode::kAccumulate});
    });
    EXPECT_TRUE(out.intact());
    return out.values();
  }
};

struct Reference {
  std::vector<double> y, grad;
  std::vector<double> y_terms, grad_terms;  // sizes of what rounds on the way
};

template <class T>
Reference reference(const Rows<T>& c) {
  Reference r;
  const auto n = static_cast<double>(c.classes);
  for (std::int64_t row = 0; row < c.rows; ++row) {
    const auto z = [&](std::int64_t k) {
      return static_cast<double>(c.z[static_cast<std::size_t>(row * c.classes + k)]);
    };
    const auto g = [&](std::int64_t k) {
      return static_cast<double>(c.grad[static_cast<std::size_t>(row * c.classes + k)]);
    };
    double mean = 0, var = 0, sum = 0, along = 0;
    for (std::int64_t k = 0; k < c.classes; ++k) mean += z(k) / n;
    for (std::int64_t k = 0; k < c.classes; ++k) var += (z(k) - mean) * (z(k) - mean) / n;
    const double scale = 1 / std::sqrt(var + 1e-7);
    for (std::int64_t k = 0; k < c.classes; ++k) {
      r.y.push_back(c.factor * (z(k) - mean) * scale);
      sum += g(k) / n;
      along += g(k) * (z(k) - mean) * scale / n;
    }
    // Logits close together: a rounding of the mean is large beside their deviation.
    const double close = 1 + scale * std::abs(mean);
    for (std::int64_t k = 0; k < c.classes; ++k) {
      r.grad.push_back(c.factor * scale * (g(k) - sum - (z(k) - mean) * scale * along));
      r.y_terms.push_back(c.factor * close);
      r.grad_terms.push_back(c.factor * scale * close * (std::abs(g(k)) + std::abs(sum) + std::abs(along)));
    }
  }
  return r;
}

template <class On>
class LogitStandardise : public TypedDeviceTest<On> {};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(LogitStandardise, Types, DeviceNames);

TYPED_TEST(LogitStandardise, MatchesReference) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = base_seed(3);
  for (const std::int64_t rows : {1, 3, 7, 33}) {
    for (const std::int64_t classes : {1, 2, 3, 7, 31, 33, 100, 1000}) {
      if (rows > 7 && classes > 100) continue;
      COHORT_TRACE_SEED(++seed);
      const auto c = Rows<T>::draw(rows, classes, seed);
      const Reference r = reference(c);
      const double u = unit_roundoff(accumulator_of(dtype_of<T>())), last = unit_roundoff(dtype_of<T>());
      const double sums = 8 * (sum_factor(classes, 4) + 16) * u;
      for (const std::size_t misalign : {0U, 1U}) {
        EXPECT_TRUE(all_within(c.forward(TypeParam::device, misalign), r.y,
                               [&](std::size_t i) { return sums * r.y_terms[i] + last * std::abs(r.y[i]); }))
            << rows << " " << classes;
      }
      EXPECT_TRUE(all_within(
          c.backward(TypeParam::device), r.grad,
          [&](std::size_t i) { return sums * r.grad_terms[i] + last * std::abs(r.grad[i]) + 1e-300; }))
          << rows << " " << classes;
    }
  }
}

TYPED_TEST(LogitStandardise, AccumulateAddsAndThreadsChangeNothing) {
  using T = typename TypeParam::Type;
  const auto c = Rows<T>::draw(TypeParam::device == Device::kCpu ? 2000 : 40, 21, base_seed(5));
  const auto y = c.forward(TypeParam::device), grad = c.backward(TypeParam::device);
  const auto sum = c.backward(TypeParam::device, std::vector<T>(c.z.size(), static_cast<T>(2.0F)));
  for (std::size_t i = 0; i < grad.size(); ++i) {
    const double expected = 2 + static_cast<double>(grad[i]);
    EXPECT_NEAR(static_cast<double>(sum[i]), expected,
                4 * unit_roundoff(dtype_of<T>()) * (1 + std::abs(expected)));
  }
  for_each_place(TypeParam::device, [&](Place place) {
    EXPECT_TRUE(same_bits(y, c.forward(place)));
    EXPECT_TRUE(same_bits(grad, c.backward(place)));
  });
}

TYPED_TEST(LogitStandardise, EqualAndSickRows) {
  using T = typename TypeParam::Type;
  auto c = Rows<T>::draw(3, 8, base_seed(7));
  for (std::size_t i = 0; i < 8; ++i) c.z[i] = static_cast<T>(2.0F);
  const auto before = c.forward(TypeParam::device);
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(static_cast<double>(before[i]), 0) << "nothing to scale";
  for (const T g : c.backward(TypeParam::device)) EXPECT_TRUE(std::isfinite(static_cast<double>(g)));
  c.z[9] = static_cast<T>(std::numeric_limits<float>::quiet_NaN());
  const auto y = c.forward(TypeParam::device), grad = c.backward(TypeParam::device);
  for (std::size_t i = 0; i < 24; ++i) {
    const bool sick = i >= 8 && i < 16;
    EXPECT_EQ(std::isnan(static_cast<double>(y[i])), sick) << i;
    EXPECT_EQ(std::isnan(static_cast<double>(grad[i])), sick) << i;
  }
}

class LogitStandardiseContract : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(LogitStandardiseContract);

TEST_P(LogitStandardiseContract, RefusesWhatItCannotDo) {
  OnDevice on(GetParam());
  const auto refused = [&](const kernels::LogitStandardiseArgs& args) {
    EXPECT_THROW(on.run([&](auto stream) { kernels::logit_standardise(stream, args); }), Error);
  };
  refused({.rows = 1, .classes = 0});
  refused({.rows = 1, .classes = 2, .epsilon = 0});
}

}  // namespace
}  // namespace cohort::test
