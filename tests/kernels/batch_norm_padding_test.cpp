// Short batches: rows behind the valid images enter no sum and get results and gradients of 0.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/batch_norm.h"
#include "tests/support/devices.h"
#include "tests/support/guard.h"
#include "tests/support/random.h"
#include "tests/support/shapes.h"
#include "tests/support/tolerance.h"

namespace cohort::kernels {
namespace {

using test::Guarded;
using test::Random;

struct Case {
  std::int64_t images;
  std::int64_t rows_per_image;
  std::int64_t channels;
  std::int32_t valid;
  bool relu = false;
  bool residual = false;
  bool accumulate = false;
  bool training = true;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.valid << " of " << c.images << " images of " << c.rows_per_image << " rows, " << c.channels
             << " channels" << (c.relu ? ", relu" : "") << (c.residual ? ", residual" : "")
             << (c.accumulate ? ", accumulate" : "") << (c.training ? "" : ", evaluation");
}

template <class T>
struct Layer {
  using A = Accumulator<T>;

  Layer(const Case& config, std::uint64_t seed) : Layer(config, Random(seed)) {}
  Layer(const Case& config, Random random)
      : c(config),
        x(random.normals<T>(count(), 1, 2)),
        residual(random.normals<T>(count())),
        grad_y(random.normals<T>(count())),
        gamma(random.uniforms<A>(channels(), 0.5, 2)),
        beta(random.uniforms<A>(channels(), -1, 1)),
        running_mean(random.uniforms<A>(channels(), -1, 1)),
        running_var(random.uniforms<A>(channels(), 0.5, 2)),
        mean(channels()),
        invstd(channels()),
        grad_gamma(random.normals<A>(channels())),
        grad_beta(random.normals<A>(channels())),
        y(count()),
        grad_x(random.normals<T>(count())),
        grad_residual(random.normals<T>(count())) {}

  std::size_t channels() const { return static_cast<std::size_t>(c.channels); }
  std::size_t count() const { return static_cast<std::size_t>(c.images * c.rows_per_image) * channels(); }
  std::size_t valid_count() const {
    return static_cast<std::size_t>(c.valid * c.rows_per_image) * channels();
  }

  // The same numbers in a batch of the valid images alone.
  Layer cut() const {
    Layer out = *this;
    out.c.images = c.valid;
    for (Guarded<T>* array : {&out.x, &out.residual, &out.grad_y, &out.y, &out.grad_x, &out.grad_residual}) {
      const auto values = array->values();
      *array = Guarded<T>(
          std::vector<T>(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(valid_count())));
    }
    return out;
  }

  // What padding holds must not matter.
  void spoil_padding() {
    for (Guarded<T>* array : {&x, &residual, &grad_y}) {
      for (std::size_t i = valid_count(); i < count(); ++i) {
        (*array)[i] = static_cast<T>(std::numeric_limits<double>::quiet_NaN());
      }
    }
  }

  void run(test::Place place, bool padded) {
    const BatchNormShape shape{c.images * c.rows_per_image, c.channels};
    const std::vector<std::int32_t> valid{c.valid};
    const GradMode mode = c.accumulate ? GradMode::kAccumulate : GradMode::kOverwrite;
    test::Scratch scratch(batch_norm_workspace(shape));
    test::OnDevice on(place);
    on.run([&](auto stream) {
      batch_norm_forward(stream, {.dtype = dtype_of<T>(),
                                  .shape = shape,
                                  .valid_images = padded ? on(valid) : nullptr,
                                  .rows_per_image = c.rows_per_image,
                                  .x = on(x),
                                  .residual = c.residual ? on(residual) : nullptr,
                                  .gamma = on(gamma),
                                  .beta = on(beta),
                                  .running_mean = on(running_mean),
                                  .running_var = on(running_var),
                                  .mean = on(mean),
                                  .invstd = on(invstd),
                                  .y = on(y),
                                  .training = c.training,
                                  .relu = c.relu,
                                  .workspace = on(scratch)});
    });
    on.run([&](auto stream) {
      batch_norm_backward(stream, {.dtype = dtype_of<T>(),
                                   .shape = shape,
                                   .valid_images = padded ? on(valid) : nullptr,
                                   .rows_per_image = c.rows_per_image,
                                   .x = on(x),
                                   .y = on(y),
                                   .grad_y = on(grad_y),
                                   .gamma = on(gamma),
                                   .mean = on(mean),
                                   .invstd = on(invstd),
                                   .grad_x = on(grad_x),
                                   .grad_x_mode = mode,
                                   .grad_residual = c.residual ? on(grad_residual) : nullptr,
                                   .grad_residual_mode = mode,
                                   .grad_gamma = on(grad_gamma),
                                   .grad_gamma_mode = mode,
                                   .grad_beta = on(grad_beta),
                                   .grad_beta_mode = mode,
                                   .training = c.training,
                                   .relu = c.relu,
                                   .workspace = on(scratch)});
    });
    EXPECT_TRUE(scratch.intact());
    EXPECT_TRUE(y.intact() && grad_x.intact() && grad_residual.intact() && mean.intact() && invstd.intact());
    EXPECT_TRUE(running_mean.intact() && running_var.intact() && grad_gamma.intact() && grad_beta.intact());
  }

  Case c;
  Guarded<T> x, residual, grad_y;
  Guarded<A> gamma, beta, running_mean, running_var, mean, invstd, grad_gamma, grad_beta;
  Guarded<T> y, grad_x, grad_residual;
};

template <class T>
double number(const T& value) {
  return static_cast<double>(value);
}

// One channel of the valid rows, in double. y is the kernel's, so that a ReLU opens and shuts at the same
// places.
template <class T>
void expect_channel(const Layer<T>& before, const Layer<T>& after, std::size_t c) {
  const std::size_t channels = before.channels();
  const double rows = number(before.valid_count() / channels);
  const double keep = before.c.accumulate ? 1 : 0;
  const double tol = std::is_same_v<T, double> ? 1e-11 : std::is_same_v<T, float> ? 3e-5 : 3e-2;
  double mean = 0, var = 0, sum = 0, sum_x = 0;
  for (std::size_t i = c; i < before.valid_count(); i += channels) mean += number(before.x[i]) / rows;
  for (std::size_t i = c; i < before.valid_count(); i += channels)
    var += std::pow(number(before.x[i]) - mean, 2) / rows;
  const double invstd = 1 / std::sqrt(var + 1e-5), gamma = number(before.gamma[c]);
  const auto dz = [&](std::size_t i) {
    return before.c.relu && number(after.y[i]) <= 0 ? 0 : number(before.grad_y[i]);
  };
  for (std::size_t i = c; i < before.valid_count(); i += channels) {
    const double xhat = (number(before.x[i]) - mean) * invstd;
    double y = gamma * xhat + number(before.beta[c]) + (before.c.residual ? number(before.residual[i]) : 0);
    if (before.c.relu) y = std::max(y, 0.0);
    EXPECT_NEAR(number(after.y[i]), y, tol * (1 + std::abs(y)));
    sum += dz(i);
    sum_x += dz(i) * xhat;
  }
  const double size = std::sqrt(rows);
  EXPECT_NEAR(number(after.mean[c]), mean, tol);
  EXPECT_NEAR(number(after.running_var[c]),
              0.9 * number(before.running_var[c]) + 0.1 * var * rows / (rows - 1), tol * (1 + var));
  EXPECT_NEAR(number(after.grad_beta[c]), sum + keep * number(before.grad_beta[c]), tol * size);
  EXPECT_NEAR(number(after.grad_gamma[c]), sum_x + keep * number(before.grad_gamma[c]), tol * size);
  for (std::size_t i = c; i < before.valid_count(); i += channels) {
    const double xhat = (number(before.x[i]) - mean) * invstd;
    const double grad =
        gamma * invstd * (dz(i) - (sum + xhat * sum_x) / rows) + keep * number(before.grad_x[i]);
    EXPECT_NEAR(number(after.grad_x[i]), grad, tol * (1 + gamma * invstd) * (1 + std::abs(grad)));
  }
}

template <class T>
void expect_padding(const Guarded<T>& before, const Guarded<T>& after, std::size_t from, bool keeps) {
  std::size_t wrong = 0;
  for (std::size_t i = from; i < after.size(); ++i)
    wrong += number(after[i]) != (keeps ? number(before[i]) : 0.0);
  EXPECT_EQ(wrong, 0u);
}

template <class T>
void expect_same_begin(const Guarded<T>& whole, const Guarded<T>& begin) {
  const auto values = whole.values();
  EXPECT_TRUE(test::same_bits(
      std::vector<T>(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(begin.size())),
      begin.values()));
}

template <class Param>
class BatchNormPadding : public test::TypedDeviceTest<Param> {};
using Types = test::OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(BatchNormPadding, Types, test::DeviceNames);

TYPED_TEST(BatchNormPadding, IsAsIfItWereNotThere) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = 0;
  for (const auto& [images, rows_per_image, channels] :
       {std::tuple{7, 1, 5}, {5, 9, 3}, {33, 16, 17}, {40, 64, 16}, {5, 9, 1100}}) {
    for (const int valid : {images, images - 1, images / 2, 2}) {
      for (int bits = 0; bits < 4; ++bits) {
        ++seed;
        // Block by block, thread by thread: there every shape and every option, but not all of their pairs.
        if (TypeParam::device != test::Device::kCpu && test::kEmulated && seed % 5 > 1) continue;
        const Case c{images,          rows_per_image,  channels,     valid,
                     (bits & 1) != 0, (bits & 2) != 0, seed % 3 == 0};
        SCOPED_TRACE(::testing::Message() << c);
        Layer<T> padded(c, seed);
        padded.spoil_padding();
        const Layer<T> before = padded;
        Layer<T> alone = padded.cut();
        ThreadPool pool(2);
        padded.run(test::Place(TypeParam::device, CpuStream{&pool}), true);
        for (std::size_t channel = 0; channel < padded.channels(); channel += 1 + padded.channels() / 5) {
          expect_channel(before, padded, channel);
        }
        expect_padding(before.y, padded.y, padded.valid_count(), false);
        expect_padding(before.grad_x, padded.grad_x, padded.valid_count(), c.accumulate);
        if (c.residual) {
          expect_padding(before.grad_residual, padded.grad_residual, padded.valid_count(), c.accumulate);
        }
        // The device cuts all rows into chunks, valid or not: its sums may round differently.
        if (TypeParam::device != test::Device::kCpu) continue;
        alone.run(TypeParam::device, false);
        for (const auto member : {&Layer<T>::y, &Layer<T>::grad_x, &Layer<T>::grad_residual}) {
          expect_same_begin(padded.*member, alone.*member);
        }
        for (const auto member : {&Layer<T>::mean, &Layer<T>::invstd, &Layer<T>::running_mean,
                                  &Layer<T>::running_var, &Layer<T>::grad_gamma, &Layer<T>::grad_beta}) {
          expect_same_begin(padded.*member, alone.*member);
        }
      }
    }
  }
}

TYPED_TEST(BatchNormPadding, EvaluationClearsItToo) {
  using T = typename TypeParam::Type;
  const Case c{6, 4, 33, 4, true, true, false, false};
  Layer<T> padded(c, 1);
  padded.spoil_padding();
  Layer<T> alone = padded.cut();
  padded.run(TypeParam::device, true);
  alone.run(TypeParam::device, false);
  expect_same_begin(padded.y, alone.y);
  expect_same_begin(padded.grad_x, alone.grad_x);
  expect_padding(padded.y, padded.y, padded.valid_count(), false);
  expect_padding(padded.grad_x, padded.grad_x, padded.valid_count(), false);
}

// Nobody can throw for what only the device knows: one row has variance 0, none has gradients of 0.
TYPED_TEST(BatchNormPadding, FewerThanTwoRowsLeaveTheRunningStatistics) {
  using T = typename TypeParam::Type;
  for (const std::int32_t valid : {1, 0, -3}) {
    SCOPED_TRACE(valid);
    Layer<T> layer({4, 1, 19, valid, true, true}, 2);
    const auto running_mean = layer.running_mean.values(), running_var = layer.running_var.values();
    const std::size_t from = valid > 0 ? layer.valid_count() : 0;
    layer.run(TypeParam::device, true);
    EXPECT_TRUE(test::same_bits(layer.running_mean.values(), running_mean));
    EXPECT_TRUE(test::same_bits(layer.running_var.values(), running_var));
    expect_padding(layer.y, layer.y, from, false);
    expect_padding(layer.grad_x, layer.grad_x, from, false);
    for (std::size_t i = 0; i < layer.channels(); ++i) {
      EXPECT_TRUE(std::isfinite(number(layer.grad_gamma[i])));
      if (valid < 1) {
        EXPECT_EQ(number(layer.grad_beta[i]), 0);
      }
    }
    for (std::size_t i = 0; i < from; ++i) EXPECT_TRUE(std::isfinite(number(layer.grad_x[i])));
  }
}

// The workspace of a batch serves every shorter one: chunks are larger from 2048 of them on.
TEST(BatchNormPaddingWorkspace, GrowsWithTheRows) {
  for (const std::int64_t channels : {1, 16, 300}) {
    std::size_t before = 0;
    for (std::int64_t rows = 1; rows < 1 << 24; rows += 1 + rows / 7) {
      const std::size_t bytes = batch_norm_workspace({rows, channels});
      EXPECT_GE(bytes, before) << rows;
      before = bytes;
    }
  }
}

}  // namespace
}  // namespace cohort::kernels
