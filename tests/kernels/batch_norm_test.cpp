#include "kernels/batch_norm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/devices.h"
#include "tests/support/guard.h"
#include "tests/support/random.h"
#include "tests/support/shapes.h"
#include "tests/support/tolerance.h"

namespace cohort::kernels {
namespace {

using test::Guarded;
using test::Random;
using test::Scratch;
using Doubles = std::vector<double>;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

struct Case {
  int rows = 1;
  int channels = 1;
  bool training = true;
  bool relu = false;
  bool residual = false;
  bool affine = true;
  bool accumulate = false;  // backward only
  double mean = 0;          // of x
  double sigma = 1;
  std::size_t misalign = 0;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.rows << "x" << c.channels << (c.training ? " training" : " evaluation")
             << (c.relu ? " relu" : "") << (c.residual ? " residual" : "") << (c.affine ? " affine" : "")
             << (c.accumulate ? " accumulate" : "") << " mean " << c.mean << " misalign " << c.misalign;
}

template <class T>
Doubles to_doubles(const Guarded<T>& values) {
  Doubles result(values.size());
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = static_cast<double>(values[i]);
  return result;
}

template <class T>
struct Forward {
  using A = Accumulator<T>;

  Forward(const Case& c, std::uint64_t seed) : Forward(c, Random(seed)) {}
  Forward(const Case& c, Random random)
      : config(c),
        x(random.normals<T>(count(), c.mean, c.sigma), c.misalign),
        residual(random.normals<T>(count()), c.misalign),
        gamma(random.uniforms<A>(channels(), 0.5, 2)),
        beta(random.uniforms<A>(channels(), -1, 1)),
        running_mean(random.uniforms<A>(channels(), -1, 1)),
        running_var(random.uniforms<A>(channels(), 0.5, 2)),
        mean(channels()),
        invstd(channels()),
        y(count(), c.misalign) {}

  std::size_t channels() const { return static_cast<std::size_t>(config.channels); }
  std::size_t count() const { return static_cast<std::size_t>(config.rows) * channels(); }

  void run(test::Place place) {
    const BatchNormShape shape{config.rows, config.channels};
    Scratch scratch(batch_norm_workspace(shape));
    test::OnDevice on(place);
    on.run([&](auto stream) {
      batch_norm_forward(stream, {.dtype = dtype_of<T>(),
                                  .shape = shape,
                                  .x = on(x),
                                  .residual = config.residual ? on(residual) : nullptr,
                                  .gamma = config.affine ? on(gamma) : nullptr,
                                  .beta = config.affine ? on(beta) : nullptr,
                                  .running_mean = on(running_mean),
                                  .running_var = on(running_var),
                                  .mean = on(mean),
                                  .invstd = on(invstd),
                                  .y = on(y),
                                  .training = config.training,
                                  .relu = config.relu,
                                  .workspace = on(scratch)});
    });
    EXPECT_TRUE(scratch.intact());
    EXPECT_TRUE(mean.intact() && invstd.intact() && y.intact() && running_mean.intact() &&
                running_var.intact());
  }

  Case config;
  Guarded<T> x, residual;
  Guarded<A> gamma, beta, running_mean, running_var, mean, invstd;
  Guarded<T> y;
};

// Two plain passes in extended precision.
struct ForwardReference {
  template <class T>
  explicit ForwardReference(const Forward<T>& f, double eps = 1e-5) {
    const std::size_t channels = f.channels();
    const double rows = f.config.rows;
    std::vector<long double> sum(channels), square(channels);  // so that f64 results have a reference too
    spread.assign(channels, 0);
    for (std::size_t i = 0; i < f.count(); ++i)
      sum[i % channels] += static_cast<long double>(static_cast<double>(f.x[i]));
    for (std::size_t i = 0; i < f.count(); ++i) {
      const std::size_t c = i % channels;
      const long double d = static_cast<long double>(static_cast<double>(f.x[i])) - sum[c] / rows;
      square[c] += d * d;
      spread[c] += std::abs(static_cast<double>(d)) / rows;
    }
    for (std::size_t c = 0; c < channels; ++c) {
      mean.push_back(static_cast<double>(sum[c] / rows));
      var.push_back(static_cast<double>(square[c] / rows));
    }
    for (std::size_t c = 0; c < channels; ++c) {
      running_mean.push_back(0.9 * static_cast<double>(f.running_mean[c]) + 0.1 * mean[c]);
      running_var.push_back(0.9 * static_cast<double>(f.running_var[c]) + 0.1 * var[c] * rows / (rows - 1));
      if (!f.config.training) mean[c] = running_mean[c] = static_cast<double>(f.running_mean[c]);
      if (!f.config.training) var[c] = running_var[c] = static_cast<double>(f.running_var[c]);
      invstd.push_back(1 / std::sqrt(var[c] + eps));
    }
    for (std::size_t i = 0; i < f.count(); ++i) {
      const std::size_t c = i % channels;
      double v = (static_cast<double>(f.x[i]) - mean[c]) * invstd[c];
      if (f.config.affine) v = v * static_cast<double>(f.gamma[c]) + static_cast<double>(f.beta[c]);
      if (f.config.residual) v += static_cast<double>(f.residual[i]);
      y.push_back(f.config.relu && v < 0 ? 0 : v);
    }
  }

  Doubles mean, var, spread, running_mean, running_var, invstd, y;
};

// The bound has no factor for the size of the mean beside the deviation: only the stored mean may round at
// its size.
template <class T>
void expect_forward(test::Device device, Forward<T>& f) {
  const ForwardReference reference(f);  // before the running statistics change
  ThreadPool pool(2);
  f.run(test::Place(device, CpuStream{&pool}));
  const std::size_t channels = f.channels();
  const double u = test::unit_roundoff(accumulator_of(dtype_of<T>()));
  const double sum = test::sum_factor(f.config.rows, 1) * u;
  const auto mean_tol = [&](std::size_t c) {
    return sum * reference.spread[c] + 2 * u * std::abs(reference.mean[c]);
  };
  const auto invstd_tol = [&](std::size_t c) { return reference.invstd[c] * (sum + 2 * u); };
  EXPECT_TRUE(test::all_within(f.mean.values(), reference.mean, mean_tol));
  EXPECT_TRUE(test::all_within(f.invstd.values(), reference.invstd, invstd_tol));
  EXPECT_TRUE(test::all_within(f.running_mean.values(), reference.running_mean, [&](std::size_t c) {
    return mean_tol(c) + 2 * u * std::abs(reference.running_mean[c]);
  }));
  EXPECT_TRUE(test::all_within(f.running_var.values(), reference.running_var, [&](std::size_t c) {
    return sum * reference.var[c] + 2 * u * reference.running_var[c];
  }));
  EXPECT_TRUE(test::all_within(f.y.values(), reference.y, [&](std::size_t i) {
    const std::size_t c = i % channels;
    const double gamma = f.config.affine ? static_cast<double>(f.gamma[c]) : 1;
    const double d = std::abs(static_cast<double>(f.x[i]) - reference.mean[c]);
    const double extra = (f.config.affine ? std::abs(static_cast<double>(f.beta[c])) : 0) +
                         (f.config.residual ? std::abs(static_cast<double>(f.residual[i])) : 0);
    return gamma * (mean_tol(c) * reference.invstd[c] + d * invstd_tol(c) + 8 * u * d * reference.invstd[c]) +
           4 * u * extra + test::unit_roundoff(dtype_of<T>()) * std::abs(reference.y[i]);
  }));
}

template <class Param>
class BatchNormKernel : public test::TypedDeviceTest<Param> {};
using Types = test::OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(BatchNormKernel, Types, test::DeviceNames);

// N, H, W in {1, 2, 7, 33}: rows are their products; the channel counts take every way of tiling.
TYPED_TEST(BatchNormKernel, ForwardMatchesReferenceAtAwkwardShapes) {
  using T = typename TypeParam::Type;
  int variant = 0;
  for (const int rows : {2, 4, 7, 14, 33, 49, 98, 231, 1089}) {
    for (const int channels : {1, 3, 15, 16, 17, 33, 64, 100, 160}) {
      ++variant;
      const Case c{.rows = rows,
                   .channels = channels,
                   .training = variant % 5 != 0,
                   .relu = variant % 2 == 0,
                   .residual = variant % 3 == 0,
                   .affine = variant % 7 != 0,
                   .misalign = static_cast<std::size_t>(variant % 4)};
      SCOPED_TRACE(::testing::Message() << c);
      Forward<T> f(c, static_cast<std::uint64_t>(variant));
      expect_forward(TypeParam::device, f);
    }
  }
}

// Several chunks; column slices (more than 1024 channels); a real layer.
TYPED_TEST(BatchNormKernel, ForwardMatchesReferenceAtLargeShapes) {
  using T = typename TypeParam::Type;
  for (const Case& c : {Case{.rows = 70001, .channels = 1, .relu = true}, Case{.rows = 30001, .channels = 3},
                        Case{.rows = 300, .channels = 1100, .residual = true},
                        Case{.rows = 2 * 33 * 33, .channels = 100, .relu = true, .residual = true},
                        Case{.rows = 8 * 32 * 32, .channels = 16, .relu = true},
                        Case{.rows = 98, .channels = 2048, .relu = true}, Case{.rows = 1000, .channels = 24},
                        Case{.rows = 49, .channels = 512, .residual = true},
                        Case{.rows = 1, .channels = 2050, .training = false}}) {
    SCOPED_TRACE(::testing::Message() << c);
    Forward<T> f(c, 7);
    expect_forward(TypeParam::device, f);
  }
}

// E[x^2] - E[x]^2 in float gives variance -2936 at a mean of 1e4. At 2e6 the mean of a block rounds by 0.06
// in float: its deviations must correct both the mean and the variance.
TYPED_TEST(BatchNormKernel, MeanMuchLargerThanDeviation) {
  using T = typename TypeParam::Type;
  for (const double mean : {1e4, 2e6}) {
    for (const int channels : {1, 16, 64}) {
      Forward<T> f({.rows = 4096, .channels = channels, .mean = mean, .sigma = 1}, 3);
      SCOPED_TRACE(::testing::Message() << f.config);
      expect_forward(TypeParam::device, f);
    }
  }
}

// Blocks whose means differ widely: the merge must carry the variance between them.
TYPED_TEST(BatchNormKernel, MeanDriftsFromBlockToBlock) {
  using T = typename TypeParam::Type;
  Forward<T> f({.rows = 20000, .channels = 16}, 4);
  for (std::size_t i = 0; i < f.count(); ++i) {
    f.x[i] = static_cast<T>(static_cast<double>(f.x[i]) + static_cast<double>(i / 16 / 500) * 100);
  }
  expect_forward(TypeParam::device, f);
}

TYPED_TEST(BatchNormKernel, ConstantChannelHasVarianceZero) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  for (const double value : {0.0, 1e4, -3.0}) {
    Forward<T> f({.rows = 5000, .channels = 3}, 5);
    for (T& v : f.x.span()) v = static_cast<T>(value);
    f.run(TypeParam::device);
    for (std::size_t c = 0; c < 3; ++c) {
      EXPECT_EQ(f.mean[c], static_cast<A>(static_cast<T>(value)));
      EXPECT_EQ(f.invstd[c], static_cast<A>(1 / std::sqrt(1e-5)));
    }
    for (std::size_t i = 0; i < f.count(); ++i) {
      ASSERT_EQ(static_cast<A>(f.y[i]), static_cast<A>(static_cast<T>(f.beta[i % 3])));
    }
  }
}

TYPED_TEST(BatchNormKernel, MeanOfIntegersIsExact) {
  using T = typename TypeParam::Type;
  Forward<T> f({.rows = 4096, .channels = 17}, 6);
  Random random(6);
  f.x = Guarded<T>(random.integers<T>(f.count(), -2, 2));
  std::vector<std::int64_t> sum(17);
  for (std::size_t i = 0; i < f.count(); ++i) sum[i % 17] += std::lround(static_cast<double>(f.x[i]));
  f.run(TypeParam::device);
  // Merged in double: exact once rounded to float.
  const double tol = std::is_same_v<T, double> ? 1e-12 : 0;
  for (std::size_t c = 0; c < 17; ++c) {
    EXPECT_NEAR(static_cast<double>(f.mean[c]) * 4096, static_cast<double>(sum[c]), tol);
  }
}

TYPED_TEST(BatchNormKernel, NanReachesItsChannelOnly) {
  using T = typename TypeParam::Type;
  for (const double bad : {kNan, kInf, -kInf}) {
    for (const bool training : {true, false}) {
      Forward<T> f({.rows = 700, .channels = 19, .training = training, .relu = true}, 8);
      const std::size_t at = 300 * 19 + 5;
      f.x[at] = static_cast<T>(bad);
      f.run(TypeParam::device);
      for (std::size_t i = 0; i < f.count(); ++i) {
        const double y = static_cast<double>(f.y[i]);
        const bool depends = training ? i % 19 == 5 : i == at;
        if (!depends) {
          ASSERT_TRUE(std::isfinite(y)) << i;
        } else if (training || std::isnan(bad)) {
          ASSERT_TRUE(std::isnan(y)) << i;  // Inf - Inf in training
        } else {
          ASSERT_EQ(y, bad > 0 ? kInf : 0.0);
        }
      }
    }
  }
}

TYPED_TEST(BatchNormKernel, OneValuePerChannelIsRefusedInTraining) {
  using T = typename TypeParam::Type;
  Forward<T> f({.rows = 1, .channels = 4}, 9);
  try {
    f.run(TypeParam::device);
    FAIL() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInternal);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("two values per channel"));
  }
  f.config.training = false;
  EXPECT_NO_THROW(f.run(TypeParam::device));
}

TYPED_TEST(BatchNormKernel, EvaluationLeavesRunningStatisticsAndMayRunInPlace) {
  using T = typename TypeParam::Type;
  Forward<T> f({.rows = 77, .channels = 33, .training = false, .relu = true, .residual = true}, 10);
  const auto running_mean = f.running_mean.values();
  const auto running_var = f.running_var.values();
  f.run(TypeParam::device);
  EXPECT_TRUE(test::same_bits(f.running_mean.values(), running_mean));
  EXPECT_TRUE(test::same_bits(f.running_var.values(), running_var));
  Scratch scratch(batch_norm_workspace({77, 33}));
  test::OnDevice on(TypeParam::device);
  on.run([&](auto stream) {
    batch_norm_forward(stream, {.dtype = dtype_of<T>(),
                                .shape = {77, 33},
                                .x = on(f.x),
                                .residual = on(f.residual),
                                .gamma = on(f.gamma),
                                .beta = on(f.beta),
                                .running_mean = on(f.running_mean),
                                .running_var = on(f.running_var),
                                .y = on(f.x),
                                .training = false,
                                .relu = true,
                                .workspace = on(scratch)});
  });
  EXPECT_TRUE(test::same_bits(f.x.values(), f.y.values()));
}

template <class T>
struct Backward {
  using A = Accumulator<T>;

  // mean and invstd are given, not computed: the reference uses the same numbers.
  Backward(const Case& c, std::uint64_t seed) : Backward(c, Random(seed)) {}
  Backward(const Case& c, Random random)
      : config(c),
        x(random.normals<T>(count(), c.mean, c.sigma), c.misalign),
        y(random.normals<T>(count()), c.misalign),
        grad_y(random.normals<T>(count()), c.misalign),
        gamma(random.uniforms<A>(channels(), 0.5, 2)),
        mean(random.uniforms<A>(channels(), -1, 1)),
        invstd(random.uniforms<A>(channels(), 0.5, 2)),
        grad_x(random.normals<T>(count()), c.misalign),
        grad_residual(random.normals<T>(count()), c.misalign),
        grad_gamma(random.normals<A>(channels())),
        grad_beta(random.normals<A>(channels())) {
    for (std::size_t i = 0; i < count(); i += 5) y[i] = static_cast<T>(0.0);  // the kink
  }

  std::size_t channels() const { return static_cast<std::size_t>(config.channels); }
  std::size_t count() const { return static_cast<std::size_t>(config.rows) * channels(); }

  void run(test::Place place) {
    const GradMode mode = config.accumulate ? GradMode::kAccumulate : GradMode::kOverwrite;
    const BatchNormShape shape{config.rows, config.channels};
    Scratch scratch(batch_norm_workspace(shape));
    test::OnDevice on(place);
    on.run([&](auto stream) {
      batch_norm_backward(stream, {.dtype = dtype_of<T>(),
                                   .shape = shape,
                                   .x = on(x),
                                   .y = on(y),
                                   .grad_y = on(grad_y),
                                   .gamma = config.affine ? on(gamma) : nullptr,
                                   .mean = on(mean),
                                   .invstd = on(invstd),
                                   .grad_x = on(grad_x),
                                   .grad_x_mode = mode,
                                   .grad_residual = config.residual ? on(grad_residual) : nullptr,
                                   .grad_residual_mode = mode,
                                   .grad_gamma = config.affine ? on(grad_gamma) : nullptr,
                                   .grad_gamma_mode = mode,
                                   .grad_beta = config.affine ? on(grad_beta) : nullptr,
                                   .grad_beta_mode = mode,
                                   .training = config.training,
                                   .relu = config.relu,
                                   .workspace = on(scratch)});
    });
    EXPECT_TRUE(scratch.intact());
    EXPECT_TRUE(grad_x.intact() && grad_residual.intact() && grad_gamma.intact() && grad_beta.intact());
  }

  Case config;
  Guarded<T> x, y, grad_y;
  Guarded<A> gamma, mean, invstd;
  Guarded<T> grad_x, grad_residual;
  Guarded<A> grad_gamma, grad_beta;
};

struct BackwardReference {
  template <class T>
  explicit BackwardReference(const Backward<T>& b) {
    const std::size_t channels = b.channels();
    const double rows = b.config.rows;
    const double keep = b.config.accumulate ? 1 : 0;
    Doubles dz(b.count()), xhat(b.count());
    for (Doubles* sums : {&sum, &sum_x, &abs, &abs_x}) sums->assign(channels, 0);
    for (std::size_t i = 0; i < b.count(); ++i) {
      const std::size_t c = i % channels;
      dz[i] = b.config.relu && static_cast<double>(b.y[i]) <= 0 ? 0 : static_cast<double>(b.grad_y[i]);
      xhat[i] =
          (static_cast<double>(b.x[i]) - static_cast<double>(b.mean[c])) * static_cast<double>(b.invstd[c]);
      sum[c] += dz[i];
      sum_x[c] += dz[i] * xhat[i];
      abs[c] += std::abs(dz[i]);
      abs_x[c] += std::abs(dz[i] * xhat[i]);
    }
    const double u = test::unit_roundoff(accumulator_of(dtype_of<T>()));
    const double factor = test::sum_factor(b.config.rows, 1) * u;
    for (std::size_t i = 0; i < b.count(); ++i) {
      const std::size_t c = i % channels;
      const double scale =
          static_cast<double>(b.invstd[c]) * (b.config.affine ? static_cast<double>(b.gamma[c]) : 1);
      const double train = b.config.training ? 1 : 0;
      grad_x.push_back(scale * (dz[i] - train * (sum[c] + xhat[i] * sum_x[c]) / rows) +
                       keep * static_cast<double>(b.grad_x[i]));
      grad_residual.push_back(dz[i] + keep * static_cast<double>(b.grad_residual[i]));
      const double size = std::abs(dz[i]) + train * (abs[c] + std::abs(xhat[i]) * abs_x[c]) / rows;
      grad_x_tol.push_back(scale * size * (factor + 8 * u) +
                           2 * test::unit_roundoff(dtype_of<T>()) * std::abs(grad_x.back()));
    }
    for (std::size_t c = 0; c < channels; ++c) {
      grad_gamma.push_back(sum_x[c] + keep * static_cast<double>(b.grad_gamma[c]));
      grad_beta.push_back(sum[c] + keep * static_cast<double>(b.grad_beta[c]));
      for (double* size : {&abs[c], &abs_x[c]}) *size = *size * (factor + 4 * u) + 8 * u;
    }
  }

  Doubles sum, sum_x, abs, abs_x, grad_x, grad_residual, grad_gamma, grad_beta, grad_x_tol;
};

template <class T>
void expect_backward(test::Device device, Backward<T>& b) {
  const BackwardReference reference(b);  // before the gradients are overwritten
  const auto untouched = b.grad_gamma.values();
  ThreadPool pool(2);
  b.run(test::Place(device, CpuStream{&pool}));
  EXPECT_TRUE(test::all_within(b.grad_x.values(), reference.grad_x,
                               [&](std::size_t i) { return reference.grad_x_tol[i]; }));
  if (b.config.residual) {
    const double u = test::unit_roundoff(dtype_of<T>());
    EXPECT_TRUE(test::all_within(b.grad_residual.values(), reference.grad_residual,
                                 [&](std::size_t i) { return u * std::abs(reference.grad_residual[i]); }));
  }
  if (!b.config.affine) return;
  EXPECT_TRUE(test::all_within(b.grad_gamma.values(), reference.grad_gamma,
                               [&](std::size_t c) { return reference.abs_x[c]; }));
  EXPECT_TRUE(test::all_within(b.grad_beta.values(), reference.grad_beta,
                               [&](std::size_t c) { return reference.abs[c]; }));
}

TYPED_TEST(BatchNormKernel, BackwardMatchesReference) {
  using T = typename TypeParam::Type;
  int variant = 0;
  for (const int rows : {2, 7, 33, 98, 231, 1089}) {
    for (const int channels : {1, 3, 15, 16, 17, 33, 64, 100, 160}) {
      for (int bits = 0; bits < 4; ++bits) {
        ++variant;
        if (TypeParam::device != test::Device::kCpu && variant % 5 > 1)
          continue;  // two of five: emulation is slow
        const Case c{.rows = rows,
                     .channels = channels,
                     .training = variant % 5 != 0,
                     .relu = (bits & 1) != 0,
                     .residual = (bits & 2) != 0,
                     .affine = variant % 7 != 0,
                     .accumulate = variant % 3 == 0,
                     .misalign = static_cast<std::size_t>(variant % 4)};
        SCOPED_TRACE(::testing::Message() << c);
        Backward<T> b(c, static_cast<std::uint64_t>(variant));
        expect_backward(TypeParam::device, b);
      }
    }
  }
  for (const Case& c :
       {Case{.rows = 70001, .channels = 1, .relu = true},
        Case{.rows = 300, .channels = 1100, .relu = true, .residual = true},
        Case{.rows = 98, .channels = 2048, .relu = true}, Case{.rows = 1000, .channels = 24},
        Case{.rows = 49, .channels = 512, .relu = true, .residual = true},
        Case{.rows = 20000, .channels = 16, .relu = true, .residual = true, .accumulate = true}}) {
    SCOPED_TRACE(::testing::Message() << c);
    Backward<T> b(c, 11);
    expect_backward(TypeParam::device, b);
  }
}

TYPED_TEST(BatchNormKernel, ResidualGradientIsExactAndUnwantedGradientsAreLeftAlone) {
  using T = typename TypeParam::Type;
  Backward<T> b({.rows = 50, .channels = 21, .relu = true, .residual = true}, 12);
  Scratch scratch(batch_norm_workspace({50, 21}));
  const auto grad_x = b.grad_x.values();
  test::OnDevice on(TypeParam::device);
  on.run([&](auto stream) {
    batch_norm_backward(stream, {.dtype = dtype_of<T>(),
                                 .shape = {50, 21},
                                 .x = on(b.x),
                                 .y = on(b.y),
                                 .grad_y = on(b.grad_y),
                                 .mean = on(b.mean),
                                 .invstd = on(b.invstd),
                                 .grad_residual = on(b.grad_residual),
                                 .relu = true,
                                 .workspace = on(scratch)});
  });
  EXPECT_TRUE(test::same_bits(b.grad_x.values(), grad_x));
  for (std::size_t i = 0; i < b.count(); ++i) {
    const double expected = static_cast<double>(b.y[i]) > 0 ? static_cast<double>(b.grad_y[i]) : 0;
    ASSERT_EQ(static_cast<double>(b.grad_residual[i]), expected);
  }
}

// The aliases that the header allows give the bits of separate buffers.
TYPED_TEST(BatchNormKernel, BackwardMayWriteIntoItsInputs) {
  using T = typename TypeParam::Type;
  for (const bool relu : {false, true}) {
    const Backward<T> b({.rows = 3000, .channels = 21}, 16);
    Scratch scratch(batch_norm_workspace({3000, 21}));
    const auto run = [&](Guarded<T>& grad_y, Guarded<T>* grad_residual, Guarded<T>& grad_x, GradMode mode) {
      ThreadPool pool(2);
      test::OnDevice on(test::Place(TypeParam::device, CpuStream{&pool}));
      on.run([&](auto stream) {
        batch_norm_backward(stream, {.dtype = dtype_of<T>(),
                                     .shape = {3000, 21},
                                     .x = on(b.x),
                                     .y = on(b.y),
                                     .grad_y = on(grad_y),
                                     .gamma = on(b.gamma),
                                     .mean = on(b.mean),
                                     .invstd = on(b.invstd),
                                     .grad_x = on(grad_x),
                                     .grad_x_mode = mode,
                                     .grad_residual = grad_residual == nullptr ? nullptr : on(*grad_residual),
                                     .relu = relu,
                                     .workspace = on(scratch)});
      });
    };
    Guarded<T> grad_y = b.grad_y, dz(b.count()), grad_x(b.count());
    run(grad_y, &dz, grad_x, GradMode::kOverwrite);
    Guarded<T> masked = b.grad_y, other(b.count());  // grad_residual is grad_y
    run(masked, &masked, other, GradMode::kOverwrite);
    EXPECT_TRUE(test::same_bits(masked.values(), dz.values()));
    EXPECT_TRUE(test::same_bits(other.values(), grad_x.values()));
    Guarded<T> in_place = b.grad_y;  // grad_x is grad_y
    run(in_place, nullptr, in_place, GradMode::kOverwrite);
    EXPECT_TRUE(test::same_bits(in_place.values(), grad_x.values()));
    Guarded<T> sum = dz, both(b.count());  // an accumulating grad_x is grad_residual
    run(grad_y, &other, sum, GradMode::kAccumulate);
    run(grad_y, &both, both, GradMode::kAccumulate);
    EXPECT_TRUE(test::same_bits(both.values(), sum.values()));
  }
}

// On the emulated device in three orders: as small as several chunks and slices allow.
TYPED_TEST(BatchNormKernel, SameBitsOnAnyNumberOfThreadsInAnyOrder) {
  using T = typename TypeParam::Type;
  const bool cpu = TypeParam::device == test::Device::kCpu;
  for (const Case& c : {Case{.rows = cpu ? 30011 : 3011, .channels = 16, .relu = true, .residual = true},
                        Case{.rows = cpu ? 40000 : 12000, .channels = 3},
                        Case{.rows = cpu ? 700 : 70, .channels = cpu ? 1100 : 550, .relu = true}}) {
    Forward<T> f(c, 13);
    Backward<T> b(c, 14);
    f.run(TypeParam::device);
    b.run(TypeParam::device);
    test::for_each_place(TypeParam::device, [&](test::Place place) {
      Forward<T> g(c, 13);
      g.run(place);
      EXPECT_TRUE(test::same_bits(g.y.values(), f.y.values()));
      EXPECT_TRUE(test::same_bits(g.invstd.values(), f.invstd.values()));
      EXPECT_TRUE(test::same_bits(g.running_var.values(), f.running_var.values()));
      Backward<T> d(c, 14);
      d.run(place);
      EXPECT_TRUE(test::same_bits(d.grad_x.values(), b.grad_x.values()));
      EXPECT_TRUE(test::same_bits(d.grad_gamma.values(), b.grad_gamma.values()));
      EXPECT_TRUE(test::same_bits(d.grad_beta.values(), b.grad_beta.values()));
    });
  }
}

// Changing the units of x changes nothing (but for eps): 2^10 x is exact in every dtype.
TYPED_TEST(BatchNormKernel, InvariantToScaleOfInput) {
  using T = typename TypeParam::Type;
  Forward<T> f({.rows = 999, .channels = 16, .sigma = 1e4}, 15);
  Forward<T> g({.rows = 999, .channels = 16, .sigma = 1e4}, 15);
  for (T& v : g.x.span()) v = static_cast<T>(static_cast<double>(v) * 1024);
  f.run(TypeParam::device);
  g.run(TypeParam::device);
  const double u = test::unit_roundoff(dtype_of<T>());
  EXPECT_TRUE(test::all_within(g.y.values(), to_doubles(f.y), [&](std::size_t i) {
    return 16 * u * (std::abs(static_cast<double>(f.y[i])) + 4) + 1e-5 / 1e8 * 4;
  }));
}

}  // namespace
}  // namespace cohort::kernels
