#include "kernels/softmax_residual.h"

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

template <class A>
struct Residuals {
  std::int64_t rows, classes;
  std::vector<A> z, grad;
  std::vector<std::int32_t> labels;
  std::int32_t valid = -1;

  static Residuals draw(std::int64_t rows, std::int64_t classes, std::uint64_t seed) {
    Random random(seed);
    const auto count = static_cast<std::size_t>(rows * classes);
    return {rows, classes, random.normals<A>(count, 0, 3), random.normals<A>(count),
            random.integers<std::int32_t>(static_cast<std::size_t>(rows), 0, static_cast<int>(classes) - 1)};
  }

  std::vector<A> forward(Place place) const {
    OnDevice on(place);
    const Guarded<A> in(z);
    Guarded<A> out(z.size());
    on.run([&](auto stream) {
      kernels::softmax_residual(stream, {.dtype = dtype_of<A>(),
                                         .rows = rows,
                                         .classes = classes,
                                         .logits = on(in),
                                         .labels = on(labels),
                                         .valid_rows = valid < 0 ? nullptr : on(valid),
                                         .residual = on(out)});
    });
    EXPECT_TRUE(out.intact());
    return out.values();
  }
  std::vector<A> backward(Place place, const std::vector<A>& before = {}) const {
    OnDevice on(place);
    const Guarded<A> in(z), g(grad);
    Guarded<A> out(z.size());
    if (!before.empty()) out = Guarded<A>(before);
    on.run([&](auto stream) {
      kernels::softmax_residual_backward(
          stream, {.dtype = dtype_of<A>(),
                   .rows = rows,
                   .classes = classes,
                   .logits = on(in),
                   .valid_rows = valid < 0 ? nullptr : on(valid),
                   .grad_residual = on(g),
                   .grad_logits = on(out),
                   .mode = before.empty() ? GradMode::kOverwrite : GradMode::kAccumulate});
    });
    EXPECT_TRUE(out.intact());
    return out.values();
  }
};

template <class On>
class SoftmaxResidual : public TypedDeviceTest<On> {};
using Types = OnDevices<float, double>;
TYPED_TEST_SUITE(SoftmaxResidual, Types, DeviceNames);

TYPED_TEST(SoftmaxResidual, MatchesReference) {
  using A = typename TypeParam::Type;
  std::uint64_t seed = base_seed(23);
  for (const std::int64_t rows : {1, 3, 7}) {
    for (const std::int64_t classes : {1, 2, 7, 31, 33, 100}) {
      COHORT_TRACE_SEED(++seed);
      auto c = Residuals<A>::draw(rows, classes, seed);
      const std::int64_t n = rows > 1 ? rows - 1 : 1;
      c.valid = static_cast<std::int32_t>(n);
      std::vector<double> r, g;
      for (std::int64_t row = 0; row < rows; ++row) {
        const auto at = [&](std::int64_t k) { return static_cast<std::size_t>(row * classes + k); };
        double sum = 0, mean = 0;
        for (std::int64_t k = 0; k < classes; ++k) sum += std::exp(static_cast<double>(c.z[at(k)]));
        const auto p = [&](std::int64_t k) { return std::exp(static_cast<double>(c.z[at(k)])) / sum; };
        for (std::int64_t k = 0; k < classes; ++k) mean += p(k) * static_cast<double>(c.grad[at(k)]);
        for (std::int64_t k = 0; k < classes; ++k) {
          const double label = k == c.labels[static_cast<std::size_t>(row)] ? 1 : 0;
          r.push_back(row < n ? (p(k) - label) / static_cast<double>(n) : 0);
          g.push_back(row < n ? p(k) * (static_cast<double>(c.grad[at(k)]) - mean) / static_cast<double>(n)
                              : 0);
        }
      }
      const double u = 200 * unit_roundoff(dtype_of<A>());
      const auto forward = c.forward(TypeParam::device), backward = c.backward(TypeParam::device);
      EXPECT_TRUE(all_near(forward, r, u));
      EXPECT_TRUE(all_near(backward, g, u));
      const auto added = c.backward(TypeParam::device, std::vector<A>(c.z.size(), A{1}));
      for (double& v : g) v += 1;
      EXPECT_TRUE(all_near(added, g, 2 * u));
      for_each_place(TypeParam::device, [&](Place place) {
        EXPECT_TRUE(same_bits(c.forward(place), forward));
        EXPECT_TRUE(same_bits(c.backward(place), backward));
      });
    }
  }
}

TYPED_TEST(SoftmaxResidual, ExtremeAndSickRows) {
  using A = typename TypeParam::Type;
  auto c = Residuals<A>::draw(3, 4, base_seed(29));
  c.z[0] = A{1e30F};
  c.z[1] = A{-1e30F};
  for (const A r : c.forward(TypeParam::device)) EXPECT_TRUE(std::isfinite(r));
  c.z[4] = std::numeric_limits<A>::quiet_NaN();
  c.labels[2] = 4;
  const auto r = c.forward(TypeParam::device);
  for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(std::isnan(r[i]), i >= 4) << i;
}

class SoftmaxResidualContract : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(SoftmaxResidualContract);

TEST_P(SoftmaxResidualContract, RefusesWhatItCannotDo) {
  OnDevice on(GetParam());
  EXPECT_THROW(on.run([&](auto stream) { kernels::softmax_residual(stream, {.rows = 1, .classes = 0}); }),
               Error);
}

}  // namespace
}  // namespace cohort::test
