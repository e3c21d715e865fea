#include "kernels/pointwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
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
using Doubles = std::vector<double>;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

template <class T>
double at(const Guarded<T>& values, std::size_t i) {
  return static_cast<double>(values[i]);
}

template <class Param>
class PointwiseKernel : public test::TypedDeviceTest<Param> {
 protected:
  // Runs `kernel(stream, a, b, y, count)` on random inputs of every awkward length and misalignment, on 1, 2
  // and 3 threads or on the device, and compares each y with f(a, b, old y) computed in double and rounded
  // once. `products`: terms on the way are as large as the result.
  template <class Kernel>
  void compare(Kernel kernel, const std::function<double(double, double, double)>& f, bool products = false) {
    using T = typename Param::Type;
    std::uint64_t seed = 0;
    std::vector<std::size_t> lengths(test::kLengths.begin(), test::kLengths.end());
    lengths.push_back(100003);  // several chunks
    for (const std::size_t count : lengths) {
      SCOPED_TRACE(::testing::Message() << "count " << count);
      Random random(++seed);
      const std::size_t misalign = seed % 4;
      const Guarded<T> a(random.normals<T>(count), misalign);
      const Guarded<T> b(random.normals<T>(count), misalign);
      const std::vector<T> old = random.normals<T>(count);
      std::vector<T> first;
      test::for_each_place(Param::device, [&](test::Place place) {
        Guarded<T> y(old, misalign);
        test::OnDevice on(place);
        on.run([&](auto stream) { kernel(stream, on(a), on(b), on(y), static_cast<std::int64_t>(count)); });
        EXPECT_TRUE(y.intact());
        if (first.empty()) first = y.values();
        EXPECT_TRUE(test::same_bits(y.values(), first));
      });
      Doubles expected(count);
      for (std::size_t i = 0; i < count; ++i) {
        expected[i] = f(at(a, i), at(b, i), static_cast<double>(old[i]));
      }
      // Two roundings in the accumulator at most, and the one of the result.
      const double u = test::unit_roundoff(dtype_of<T>());
      const double u_acc = test::unit_roundoff(accumulator_of(dtype_of<T>()));
      EXPECT_TRUE(test::all_within(first, expected, [&](std::size_t i) {
        const double size = std::abs(at(a, i)) + std::abs(at(b, i)) + std::abs(static_cast<double>(old[i])) +
                            (products ? std::abs(expected[i]) : 0);
        return u * std::abs(expected[i]) + 4 * u_acc * size;
      }));
    }
  }
};
using Types = test::OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(PointwiseKernel, Types, test::DeviceNames);

TYPED_TEST(PointwiseKernel, Relu) {
  using T = typename TypeParam::Type;
  this->compare(
      [&](auto stream, const T* a, const T*, T* y, std::int64_t count) {
        relu_forward(stream, {.dtype = dtype_of<T>(), .count = count, .x = a, .y = y});
      },
      [](double a, double, double) { return a < 0 ? 0 : a; });
  for (const GradMode mode : {GradMode::kOverwrite, GradMode::kAccumulate}) {
    this->compare(
        [&](auto stream, const T* a, const T* b, T* y, std::int64_t count) {
          relu_backward(
              stream,
              {.dtype = dtype_of<T>(), .count = count, .y = a, .grad_y = b, .grad_x = y, .mode = mode});
        },
        [&](double a, double b, double old) {
          return (a > 0 ? b : 0) + (mode == GradMode::kAccumulate ? old : 0);
        });
  }
}

TYPED_TEST(PointwiseKernel, LeakyReluAndSigmoid) {
  using T = typename TypeParam::Type;
  this->compare(
      [&](auto stream, const T* a, const T*, T* y, std::int64_t count) {
        leaky_relu_forward(stream, {.dtype = dtype_of<T>(), .count = count, .x = a, .y = y, .slope = 0.25});
      },
      [](double a, double, double) { return a < 0 ? a / 4 : a; });
  this->compare(
      [&](auto stream, const T* a, const T*, T* y, std::int64_t count) {
        sigmoid_forward(stream, {.dtype = dtype_of<T>(), .count = count, .x = a, .y = y});
      },
      [](double a, double, double) { return 1 / (1 + std::exp(-a)); }, /*products=*/true);
  for (const GradMode mode : {GradMode::kOverwrite, GradMode::kAccumulate}) {
    const auto more = [&](double old) { return mode == GradMode::kAccumulate ? old : 0; };
    this->compare(
        [&](auto stream, const T* a, const T* b, T* y, std::int64_t count) {
          leaky_relu_backward(stream, {.dtype = dtype_of<T>(),
                                       .count = count,
                                       .y = a,
                                       .grad_y = b,
                                       .grad_x = y,
                                       .slope = 0.25,
                                       .mode = mode});
        },
        [&](double a, double b, double old) { return (a > 0 ? b : b / 4) + more(old); });
    this->compare(
        [&](auto stream, const T* a, const T* b, T* y, std::int64_t count) {
          sigmoid_backward(
              stream,
              {.dtype = dtype_of<T>(), .count = count, .y = a, .grad_y = b, .grad_x = y, .mode = mode});
        },
        [&](double a, double b, double old) { return a * (1 - a) * b + more(old); }, /*products=*/true);
  }
}

// The ends of the range: 0 and 1 exactly, no NaN on the way; a NaN stays one.
TYPED_TEST(PointwiseKernel, SigmoidSaturates) {
  using T = typename TypeParam::Type;
  const std::vector<double> inputs{kNan, kInf, -kInf, 1e4, -1e4, 0.0, -0.0};
  const std::vector<double> expected{kNan, 1, 0, 1, 0, 0.5, 0.5};
  const Guarded<T> x(std::vector<T>(inputs.begin(), inputs.end()));
  Guarded<T> y(inputs.size());
  test::OnDevice on(TypeParam::device);
  on.run([&](auto stream) {
    sigmoid_forward(stream, {.dtype = dtype_of<T>(), .count = 7, .x = on(x), .y = on(y)});
  });
  for (std::size_t i = 0; i < inputs.size(); ++i) EXPECT_TRUE(test::within(at(y, i), expected[i], 0)) << i;
}

TYPED_TEST(PointwiseKernel, AddAndScale) {
  using T = typename TypeParam::Type;
  this->compare(
      [&](auto stream, const T* a, const T* b, T* y, std::int64_t count) {
        add(stream, {.dtype = dtype_of<T>(), .count = count, .a = a, .b = b, .y = y});
      },
      [](double a, double b, double) { return a + b; });
  for (const GradMode mode : {GradMode::kOverwrite, GradMode::kAccumulate}) {
    for (const double factor : {1.0, -0.75}) {
      this->compare(
          [&](auto stream, const T* a, const T*, T* y, std::int64_t count) {
            scale(stream,
                  {.dtype = dtype_of<T>(), .count = count, .x = a, .y = y, .factor = factor, .mode = mode});
          },
          [&](double a, double, double old) {
            return factor * a + (mode == GradMode::kAccumulate ? old : 0);
          });
    }
  }
}

TYPED_TEST(PointwiseKernel, AddMayWriteIntoAnInput) {
  using T = typename TypeParam::Type;
  Random random(1);
  Guarded<T> a(random.integers<T>(70001, -50, 50));
  const Guarded<T> b(random.integers<T>(70001, -50, 50));
  const auto old = a.values();
  ThreadPool pool(2);
  test::OnDevice on(test::Place(TypeParam::device, CpuStream{&pool}));
  on.run([&](auto stream) {
    add(stream, {.dtype = dtype_of<T>(), .count = 70001, .a = on(a), .b = on(b), .y = on(a)});
  });
  for (std::size_t i = 0; i < a.size(); ++i) ASSERT_EQ(at(a, i), static_cast<double>(old[i]) + at(b, i));
}

TYPED_TEST(PointwiseKernel, NonFiniteValues) {
  using T = typename TypeParam::Type;
  const std::vector<double> inputs{kNan, kInf, -kInf, 0.0, -0.0, 1.0, -1.0};
  std::vector<T> values;
  for (int repeat = 0; repeat < 5; ++repeat) {
    for (const double v : inputs) values.push_back(static_cast<T>(v));
  }
  const Guarded<T> x(values);
  const auto count = static_cast<std::int64_t>(values.size());
  Guarded<T> y(values.size());
  test::OnDevice on(TypeParam::device);
  on.run([&](auto stream) {
    relu_forward(stream, {.dtype = dtype_of<T>(), .count = count, .x = on(x), .y = on(y)});
  });
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double v = inputs[i % inputs.size()];
    EXPECT_TRUE(test::within(at(y, i), v < 0 ? 0 : v, 0)) << v;
  }
  // The gradient is masked by the result: at 0 and behind a NaN it is 0.
  Guarded<T> ones(std::vector<T>(values.size(), static_cast<T>(1.0)));
  Guarded<T> grad(values.size());
  on.run([&](auto stream) {
    relu_backward(
        stream, {.dtype = dtype_of<T>(), .count = count, .y = on(y), .grad_y = on(ones), .grad_x = on(grad)});
  });
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(at(grad, i), inputs[i % inputs.size()] > 0 ? 1 : 0);
  }
}

TYPED_TEST(PointwiseKernel, Fill) {
  using T = typename TypeParam::Type;
  for (const std::size_t count : {std::size_t{1}, std::size_t{33}, std::size_t{65537}}) {
    for (const double value : {0.0, 1.5, kNan, -kInf}) {
      Guarded<T> y(count, 1);
      test::OnDevice on(TypeParam::device);
      on.run([&](auto stream) {
        fill(stream,
             {.dtype = dtype_of<T>(), .count = static_cast<std::int64_t>(count), .y = on(y), .value = value});
      });
      EXPECT_TRUE(y.intact());
      for (std::size_t i = 0; i < count; ++i) ASSERT_TRUE(test::within(at(y, i), value, 0));
    }
  }
}

template <class From, class To>
void expect_cast(test::Device device, const std::vector<From>& values) {
  const Guarded<From> x(values, 1);
  Guarded<To> y(values.size(), 3);
  test::OnDevice on(device);
  on.run([&](auto stream) {
    cast(stream, {.from = dtype_of<From>(),
                  .to = dtype_of<To>(),
                  .count = static_cast<std::int64_t>(values.size()),
                  .x = on(x),
                  .y = on(y)});
  });
  EXPECT_TRUE(y.intact());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const To expected = static_cast<To>(static_cast<double>(values[i]));
    ASSERT_TRUE(test::within(at(y, i), static_cast<double>(expected), 0)) << static_cast<double>(values[i]);
    ASSERT_EQ(std::signbit(at(y, i)), std::signbit(static_cast<double>(expected)));
  }
}

class PointwiseKernelCast : public test::DeviceTest {};
COHORT_INSTANTIATE_DEVICES(PointwiseKernelCast);

// Every bf16 value, the midpoints between neighbours (ties to even) and their own neighbours in float.
TEST_P(PointwiseKernelCast, RoundsToNearestEven) {
  std::vector<bf16> all(65536);
  std::vector<float> floats;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    all[bits].bits = static_cast<std::uint16_t>(bits);
    for (const std::uint32_t low : {0x0000U, 0x0001U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU}) {
      floats.push_back(std::bit_cast<float>(bits << 16 | low));
    }
  }
  expect_cast<bf16, float>(GetParam(), all);
  expect_cast<bf16, double>(GetParam(), all);
  expect_cast<float, bf16>(GetParam(), floats);
  expect_cast<float, double>(GetParam(), floats);
  expect_cast<double, float>(GetParam(), {1.0, 1.0 + 0x1p-24, 1.0 + 0x1.8p-23, -1e300, kNan, 1e-310});
  // Against rounding worked out by hand, not by the class under test.
  const Guarded<float> x(
      std::vector<float>{1.0F + 0x1p-8F, 1.0F + 0x1.8p-7F, 1.0F + 0x1p-8F + 0x1p-23F, 3.4e38F});
  Guarded<bf16> y(4);
  test::OnDevice on(GetParam());
  on.run([&](auto stream) {
    cast(stream, {.from = DType::f32, .to = DType::bf16, .count = 4, .x = on(x), .y = on(y)});
  });
  EXPECT_EQ(at(y, 0), 1.0);
  EXPECT_EQ(at(y, 1), 1.0 + 0x1p-6);
  EXPECT_EQ(at(y, 2), 1.0 + 0x1p-7);
  EXPECT_EQ(at(y, 3), kInf);
}

// y and grad_x against the formula, element by element; both are exact.
TYPED_TEST(PointwiseKernel, ShortcutA) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = 0;
  for (const ShortcutAShape s : {ShortcutAShape{1, 1, 1, 1, 1, 1}, ShortcutAShape{2, 8, 8, 16, 32, 2},
                                 ShortcutAShape{3, 7, 33, 3, 8, 2}, ShortcutAShape{2, 5, 4, 17, 17, 3},
                                 ShortcutAShape{7, 33, 7, 33, 66, 2}, ShortcutAShape{2, 6, 6, 5, 12, 1}}) {
    Random random(++seed);
    const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
    const std::size_t count_x = size(s.batch * s.height * s.width * s.channels_in);
    const std::size_t count_y = size(s.batch * s.out_height() * s.out_width() * s.channels_out);
    const Guarded<T> x(random.integers<T>(count_x, -9, 9), seed % 4);
    const Guarded<T> grad_y(random.integers<T>(count_y, -9, 9), seed % 4);
    const std::vector<T> old = random.integers<T>(count_x, -9, 9);
    Doubles expected_y(count_y), expected_grad(count_x);
    const std::int64_t before = (s.channels_out - s.channels_in) / 2;
    for (std::int64_t p = 0; p < s.batch * s.out_height() * s.out_width(); ++p) {
      const std::int64_t j = p % s.out_width(), i = p / s.out_width() % s.out_height();
      const std::int64_t n = p / s.out_width() / s.out_height();
      const std::int64_t from = (n * s.height + i * s.stride) * s.width + j * s.stride;
      for (std::int64_t c = 0; c < s.channels_in; ++c) {
        const std::size_t a = size(from * s.channels_in + c), b = size(p * s.channels_out + before + c);
        expected_y[b] = at(x, a);
        expected_grad[a] = at(grad_y, b);
      }
    }
    test::for_each_place(TypeParam::device, [&](test::Place place) {
      test::OnDevice on(place);
      Guarded<T> y(count_y, seed % 4);
      on.run([&](auto stream) {
        shortcut_a_forward(stream, {.dtype = dtype_of<T>(), .shape = s, .x = on(x), .y = on(y)});
      });
      EXPECT_TRUE(y.intact());
      EXPECT_TRUE(test::all_near(y.values(), expected_y, 0));
      for (const GradMode mode : {GradMode::kOverwrite, GradMode::kAccumulate}) {
        Guarded<T> grad_x(old, seed % 4);
        on.run([&](auto stream) {
          shortcut_a_backward(
              stream,
              {.dtype = dtype_of<T>(), .shape = s, .grad_y = on(grad_y), .grad_x = on(grad_x), .mode = mode});
        });
        EXPECT_TRUE(grad_x.intact());
        Doubles expected = expected_grad;
        for (std::size_t i = 0; i < count_x && mode == GradMode::kAccumulate; ++i) {
          expected[i] += static_cast<double>(old[i]);
        }
        EXPECT_TRUE(test::all_near(grad_x.values(), expected, 0));
      }
    });
  }
}

}  // namespace
}  // namespace cohort::kernels
