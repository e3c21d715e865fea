#include "kernels/channel_normalise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/devices.h"
#include "tests/support/feature_fixture.h"
#include "tests/support/random.h"
#include "tests/support/shapes.h"
#include "tests/support/tolerance.h"

namespace cohort::test {
namespace {

template <class T>
struct Maps {
  std::int64_t samples, positions, channels;
  std::vector<T> x, grad;

  static Maps draw(std::int64_t samples, std::int64_t positions, std::int64_t channels, std::uint64_t seed) {
    Random random(seed);
    const auto count = static_cast<std::size_t>(samples * positions * channels);
    return {samples, positions, channels, random.normals<T>(count, 0.3, 2), random.normals<T>(count)};
  }

  std::vector<T> forward(Place place, std::size_t misalign = 0) const {
    const Guarded<T> in(x, misalign);
    Guarded<T> out(x.size(), misalign);
    OnDevice on(place);
    const kernels::ChannelNormaliseArgs args{.dtype = dtype_of<T>(),
                                             .samples = samples,
                                             .positions = positions,
                                             .channels = channels,
                                             .x = on(in),
                                             .y = on(out)};
    Scratch scratch(kernels::channel_normalise_workspace(place.cpu, args.dtype, channels));
    const Workspace workspace = on(scratch);
    on.run([&](auto stream) { kernels::channel_normalise(stream, args, workspace); });
    EXPECT_TRUE(out.intact() && scratch.intact());
    return out.values();
  }

  std::vector<T> backward(Place place, const std::vector<T>& before = {}) const {
    const Guarded<T> in(x), g(grad);
    Guarded<T> out(x.size());
    if (!before.empty()) out = Guarded<T>(before);
    OnDevice on(place);
    const kernels::ChannelNormaliseBackwardArgs args{
        .dtype = dtype_of<T>(),
        .samples = samples,
        .positions = positions,
        .channels = channels,
        .x = on(in),
        .grad_y = on(g),
        .grad_x = on(out),
        .mode = before.empty() ? GradMode::kOverwrite : GradMode::kAccumulate};
    Scratch scratch(kernels::channel_normalise_workspace(place.cpu, args.dtype, channels));
    const Workspace workspace = on(scratch);
    on.run([&](auto stream) { kernels::channel_normalise_backward(stream, args, workspace); });
    EXPECT_TRUE(out.intact() && scratch.intact());
    return out.values();
  }
};

struct Reference {
  std::vector<double> y, grad, grad_size;  // grad_size: of what is subtracted on the way
};

template <class T>
Reference reference(const Maps<T>& m) {
  Reference r;
  r.y.resize(m.x.size());
  r.grad.resize(m.x.size());
  r.grad_size.resize(m.x.size());
  for (std::int64_t n = 0; n < m.samples; ++n) {
    for (std::int64_t c = 0; c < m.channels; ++c) {
      double squares = 0, along = 0, along_size = 0;
      const auto at = [&](std::int64_t p) {
        return static_cast<std::size_t>((n * m.positions + p) * m.channels + c);
      };
      for (std::int64_t p = 0; p < m.positions; ++p) {
        const auto x = static_cast<double>(m.x[at(p)]), g = static_cast<double>(m.grad[at(p)]);
        squares += x * x;
        along += g * x;
        along_size += std::abs(g * x);
      }
      const double norm = std::sqrt(squares);
      for (std::int64_t p = 0; p < m.positions; ++p) {
        const auto x = static_cast<double>(m.x[at(p)]), g = static_cast<double>(m.grad[at(p)]);
        r.y[at(p)] = norm <= 1e-12 ? 0 : x / norm;
        r.grad[at(p)] = norm <= 1e-12 ? 0 : (g - x / norm * along / norm) / norm;
        r.grad_size[at(p)] = norm <= 1e-12 ? 0 : (std::abs(g) + std::abs(x) / squares * along_size) / norm;
      }
    }
  }
  return r;
}

template <class Param>
class ChannelNormalise : public TypedDeviceTest<Param> {};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(ChannelNormalise, Types, DeviceNames);

TYPED_TEST(ChannelNormalise, MatchesReference) {
  using T = typename TypeParam::Type;
  const double u = unit_roundoff(dtype_of<T>()), u_acc = unit_roundoff(accumulator_of(dtype_of<T>()));
  std::uint64_t seed = base_seed(310);
  for (const int samples : {1, 2, 5}) {
    for (const int positions : {1, 3, 7, 49, 64}) {
      for (const int channels : {1, 3, 31, 32, 33, 70}) {
        COHORT_TRACE_SEED(++seed);
        const auto maps = Maps<T>::draw(samples, positions, channels, seed);
        const Reference expected = reference(maps);
        const double chain = sum_factor(positions, 1) * u_acc;
        EXPECT_TRUE(all_within(maps.forward(TypeParam::device, seed % 4), expected.y, [&](std::size_t i) {
          return (u + chain) * std::abs(expected.y[i]) + 1e-300;
        }));
        const auto before = Random(seed).template normals<T>(maps.x.size());
        const std::vector<T> own = maps.backward(TypeParam::device);
        const std::vector<T> added = maps.backward(TypeParam::device, before);
        std::vector<double> sum = expected.grad;
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(before[i]);
        const auto tolerance_at = [&](std::size_t i) { return 2 * chain * expected.grad_size[i] + 1e-300; };
        EXPECT_TRUE(all_within(own, expected.grad, [&](std::size_t i) {
          return u * std::abs(expected.grad[i]) + tolerance_at(i);
        }));
        EXPECT_TRUE(all_within(added, sum, [&](std::size_t i) {
          return u * std::abs(sum[i]) + u_acc * std::abs(expected.grad[i]) + tolerance_at(i);
        }));
      }
    }
  }
}

// The lengths of the specification's student: its feature loss is 0.647882 against the teacher's.
TYPED_TEST(ChannelNormalise, Golden) {
  using T = typename TypeParam::Type;
  if constexpr (std::is_same_v<T, bf16>) return;
  const Maps<T> student{2, 2, 2, nhwc<T>(kGoldenF2), std::vector<T>(8)};
  const Maps<T> teacher{2, 2, 2, nhwc<T>(kGoldenF1), std::vector<T>(8)};
  const auto s = student.forward(TypeParam::device), t = teacher.forward(TypeParam::device);
  double mse = 0;
  for (std::size_t i = 0; i < 8; ++i)
    mse += std::pow(static_cast<double>(s[i]) - static_cast<double>(t[i]), 2) / 8;
  const double tol = std::is_same_v<T, double> ? 2e-6 : 1e-5;
  EXPECT_NEAR(mse, 0.647882, tol);
}

TYPED_TEST(ChannelNormalise, ZerosStayZerosAndTeachNothing) {
  using T = typename TypeParam::Type;
  auto maps = Maps<T>::draw(2, 9, 5, base_seed());
  for (std::size_t p = 0; p < 9; ++p) maps.x[(9 + p) * 5 + 3] = T{};
  const auto y = maps.forward(TypeParam::device), grad = maps.backward(TypeParam::device);
  for (std::size_t p = 0; p < 9; ++p) {
    EXPECT_EQ(static_cast<double>(y[(9 + p) * 5 + 3]), 0);
    EXPECT_EQ(static_cast<double>(grad[(9 + p) * 5 + 3]), 0);
    EXPECT_NE(static_cast<double>(grad[p * 5 + 3]), 0) << "the other sample's channel";
  }
}

TYPED_TEST(ChannelNormalise, PowersOfTwoChangeNothingAndNanStaysInItsChannel) {
  using T = typename TypeParam::Type;
  auto maps = Maps<T>::draw(3, 11, 40, base_seed());
  const auto y = maps.forward(TypeParam::device);
  for (T& v : maps.x) v = static_cast<T>(static_cast<double>(v) * 8);
  EXPECT_TRUE(same_bits(y, maps.forward(TypeParam::device)));
  maps.x[(11 + 4) * 40 + 33] = T{std::numeric_limits<float>::quiet_NaN()};
  const auto sick = maps.forward(TypeParam::device);
  for (std::size_t i = 0; i < y.size(); ++i) {
    const bool touched = i / (11 * 40) == 1 && i % 40 == 33;
    EXPECT_EQ(std::isnan(static_cast<double>(sick[i])), touched) << i;
  }
}

TYPED_TEST(ChannelNormalise, SameBitsInEveryRun) {
  using T = typename TypeParam::Type;
  const auto maps = Maps<T>::draw(9, 64, 33, base_seed());
  const auto y = maps.forward(TypeParam::device), grad = maps.backward(TypeParam::device);
  for_each_place(TypeParam::device, [&](Place place) {
    EXPECT_TRUE(same_bits(y, maps.forward(place)));
    EXPECT_TRUE(same_bits(grad, maps.backward(place)));
  });
}

TEST(ChannelNormaliseContract, RefusesTooLittleScratch) {
  const float x = 1;
  float y = 0;
  EXPECT_THROW(kernels::channel_normalise(
                   CpuStream{}, {.samples = 1, .positions = 1, .channels = 1, .x = &x, .y = &y}, {}),
               Error);
}

}  // namespace
}  // namespace cohort::test
