#include "kernels/pool.h"

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
using Doubles = std::vector<double>;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::size_t size(std::int64_t n) {
  return static_cast<std::size_t>(n);
}

// The pixels of an output pixel and the weight of each: the definition of every average below.
struct Bin {
  std::int64_t top, bottom, left, right;
  double divisor;
};

Bin window_bin(const PoolShape& s, const PoolWindow& w, bool include_pad, std::int64_t i, std::int64_t j) {
  const std::int64_t h = i * w.stride - w.padding, v = j * w.stride - w.padding;
  const Bin bin{std::max<std::int64_t>(h, 0), std::min(h + w.size, s.height), std::max<std::int64_t>(v, 0),
                std::min(v + w.size, s.width), 0};
  const std::int64_t rows =
      include_pad ? std::min(h + w.size, s.height + w.padding) - h : bin.bottom - bin.top;
  const std::int64_t columns =
      include_pad ? std::min(v + w.size, s.width + w.padding) - v : bin.right - bin.left;
  return {bin.top, bin.bottom, bin.left, bin.right, static_cast<double>(rows * columns)};
}

Bin adaptive_bin(const PoolShape& s, std::int64_t i, std::int64_t j) {
  const auto edge = [](std::int64_t k, std::int64_t n, std::int64_t out) {
    return static_cast<double>(k) * static_cast<double>(n) / static_cast<double>(out);
  };
  const Bin bin{static_cast<std::int64_t>(std::floor(edge(i, s.height, s.out_height))),
                static_cast<std::int64_t>(std::ceil(edge(i + 1, s.height, s.out_height))),
                static_cast<std::int64_t>(std::floor(edge(j, s.width, s.out_width))),
                static_cast<std::int64_t>(std::ceil(edge(j + 1, s.width, s.out_width))), 0};
  return {bin.top, bin.bottom, bin.left, bin.right,
          static_cast<double>((bin.bottom - bin.top) * (bin.right - bin.left))};
}

template <class T>
struct Maps {
  Maps(test::Device d, const PoolShape& s, std::uint64_t seed, bool integers)
      : device(d), shape(s), random(seed), misalign(seed % 4) {
    const auto fill = [&](std::size_t count) {
      return Guarded<T>(integers ? random.integers<T>(count, -4, 4) : random.normals<T>(count), misalign);
    };
    x = fill(size(s.batch * s.height * s.width * s.channels));
    grad_y = fill(size(s.batch * s.out_height * s.out_width * s.channels));
    old = fill(x.size());
  }

  std::size_t x_at(std::int64_t n, std::int64_t h, std::int64_t w, std::int64_t c) const {
    return size(((n * shape.height + h) * shape.width + w) * shape.channels + c);
  }

  // f(index in y, n, i, j, c) for all of y.
  template <class F>
  void for_outputs(F&& f) const {
    std::size_t at = 0;
    for (std::int64_t n = 0; n < shape.batch; ++n) {
      for (std::int64_t i = 0; i < shape.out_height; ++i) {
        for (std::int64_t j = 0; j < shape.out_width; ++j) {
          for (std::int64_t c = 0; c < shape.channels; ++c) f(at++, n, i, j, c);
        }
      }
    }
  }

  // forward(stream, x, y) and backward(stream, grad_y, grad_x, mode) against averages over `bin(i, j)`.
  template <class Bins, class F, class B>
  void expect_average(Bins bin, F forward, B backward) {
    Doubles y(grad_y.size()), y_abs(grad_y.size()), grad(x.size()), grad_abs(x.size());
    std::int64_t terms = 1;
    for_outputs([&](std::size_t at, std::int64_t n, std::int64_t i, std::int64_t j, std::int64_t c) {
      const Bin b = bin(i, j);
      terms = std::max(terms, (b.bottom - b.top) * (b.right - b.left));
      for (std::int64_t h = b.top; h < b.bottom; ++h) {
        for (std::int64_t w = b.left; w < b.right; ++w) {
          const std::size_t from = x_at(n, h, w, c);
          y[at] += static_cast<double>(x[from]) / b.divisor;
          y_abs[at] += std::abs(static_cast<double>(x[from])) / b.divisor;
          grad[from] += static_cast<double>(grad_y[at]) / b.divisor;
          grad_abs[from] += std::abs(static_cast<double>(grad_y[at])) / b.divisor;
        }
      }
    });
    expect_same_everywhere(y.size(), nullptr, x, forward, y, y_abs, terms);
    expect_same_everywhere(
        x.size(), nullptr, grad_y,
        [&](auto s, const T* in, T* out) { backward(s, in, out, GradMode::kOverwrite); }, grad, grad_abs,
        terms);
    for (std::size_t i = 0; i < x.size(); ++i) {
      grad[i] += static_cast<double>(old[i]);
      grad_abs[i] += std::abs(static_cast<double>(old[i]));
    }
    expect_same_everywhere(
        x.size(), &old, grad_y,
        [&](auto s, const T* in, T* out) { backward(s, in, out, GradMode::kAccumulate); }, grad, grad_abs,
        terms);
  }

  template <class F>
  void expect_same_everywhere(std::size_t count, const Guarded<T>* initial, const Guarded<T>& in, F kernel,
                              const Doubles& expected, const Doubles& abs, std::int64_t terms) {
    std::vector<T> first;
    test::for_each_place(device, [&](test::Place place) {
      Guarded<T> out =
          initial == nullptr ? Guarded<T>(count, misalign) : Guarded<T>(initial->values(), misalign);
      test::OnDevice on(place);
      on.run([&](auto stream) { kernel(stream, on(in), on(out)); });
      EXPECT_TRUE(out.intact());
      if (first.empty()) first = out.values();
      EXPECT_TRUE(test::same_bits(out.values(), first));
    });
    EXPECT_TRUE(test::all_within(first, expected, [&](std::size_t i) {
      return test::tolerance({.out = dtype_of<T>(), .n = terms + 1}, abs[i], expected[i]);
    }));
  }

  test::Device device;
  PoolShape shape;
  Random random;
  std::size_t misalign;
  Guarded<T> x{0}, grad_y{0}, old{0};
};

struct WindowCase {
  PoolShape shape;
  PoolWindow window;
};

// VGG, ImageNet stem, overlapping with padding, output sides rounded up, window larger than the map.
const std::vector<WindowCase> kWindowCases{
    {{2, 8, 8, 64, 4, 4}, {2, 2, 0}},  {{1, 33, 7, 17, 17, 4}, {3, 2, 1}},
    {{3, 7, 7, 3, 7, 7}, {3, 1, 1}},   {{2, 7, 33, 33, 3, 16}, {2, 2, 0}},
    {{2, 7, 5, 15, 4, 3}, {2, 2, 0}},  {{1, 1, 1, 1, 1, 1}, {3, 1, 1}},
    {{7, 2, 3, 100, 1, 1}, {5, 3, 2}}, {{1, 9, 9, 300, 3, 3}, {3, 3, 0}},
    {{2, 12, 12, 16, 7, 7}, {3, 2, 1}}};

template <class Param>
class PoolKernel : public test::TypedDeviceTest<Param> {};
using Types = test::OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(PoolKernel, Types, test::DeviceNames);

TYPED_TEST(PoolKernel, Average) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = 0;
  for (const WindowCase& c : kWindowCases) {
    for (const bool include_pad : {true, false}) {
      SCOPED_TRACE(::testing::Message() << "case " << seed);
      Maps<T> m(TypeParam::device, c.shape, ++seed, false);
      m.expect_average(
          [&](std::int64_t i, std::int64_t j) { return window_bin(c.shape, c.window, include_pad, i, j); },
          [&](auto stream, const T* x, T* y) {
            avg_pool_forward(stream, {.dtype = dtype_of<T>(),
                                      .shape = c.shape,
                                      .window = c.window,
                                      .count_include_pad = include_pad,
                                      .x = x,
                                      .y = y});
          },
          [&](auto stream, const T* grad_y, T* grad_x, GradMode mode) {
            avg_pool_backward(stream, {.dtype = dtype_of<T>(),
                                       .shape = c.shape,
                                       .window = c.window,
                                       .count_include_pad = include_pad,
                                       .grad_y = grad_y,
                                       .grad_x = grad_x,
                                       .mode = mode});
          });
    }
  }
}

TYPED_TEST(PoolKernel, AdaptiveAndGlobalAverage) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = 0;
  for (const PoolShape& s :
       {PoolShape{2, 7, 7, 64, 1, 1}, PoolShape{3, 33, 7, 17, 5, 3}, PoolShape{2, 4, 4, 3, 7, 9},
        PoolShape{1, 10, 7, 33, 7, 7}, PoolShape{1, 1, 1, 1, 1, 1}, PoolShape{3, 8, 8, 300, 1, 1},
        PoolShape{1, 50, 50, 5, 1, 1}}) {
    SCOPED_TRACE(::testing::Message() << "case " << seed);
    Maps<T> m(TypeParam::device, s, ++seed, false);
    const auto bin = [&](std::int64_t i, std::int64_t j) { return adaptive_bin(s, i, j); };
    const auto forward = [&](const T* x, T* y) {
      return AdaptiveAvgPoolForwardArgs{.dtype = dtype_of<T>(), .shape = s, .x = x, .y = y};
    };
    const auto backward = [&](const T* grad_y, T* grad_x, GradMode mode) {
      return AdaptiveAvgPoolBackwardArgs{
          .dtype = dtype_of<T>(), .shape = s, .grad_y = grad_y, .grad_x = grad_x, .mode = mode};
    };
    m.expect_average(
        bin, [&](auto stream, const T* x, T* y) { adaptive_avg_pool_forward(stream, forward(x, y)); },
        [&](auto stream, const T* g, T* grad_x, GradMode mode) {
          adaptive_avg_pool_backward(stream, backward(g, grad_x, mode));
        });
    if (s.out_height * s.out_width != 1) continue;
    m.expect_average(
        bin, [&](auto stream, const T* x, T* y) { global_avg_pool_forward(stream, forward(x, y)); },
        [&](auto stream, const T* g, T* grad_x, GradMode mode) {
          global_avg_pool_backward(stream, backward(g, grad_x, mode));
        });
  }
}

// Small integers: many ties, so that the first maximum is tested; everything is exact.
TYPED_TEST(PoolKernel, Maximum) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = 0;
  for (const WindowCase& c : kWindowCases) {
    SCOPED_TRACE(::testing::Message() << "case " << seed);
    Maps<T> m(TypeParam::device, c.shape, ++seed, true);
    Doubles y(m.grad_y.size()), grad(m.x.size());
    std::vector<std::int32_t> argmax(y.size());
    m.for_outputs([&](std::size_t at, std::int64_t n, std::int64_t i, std::int64_t j, std::int64_t channel) {
      const Bin b = window_bin(c.shape, c.window, false, i, j);
      y[at] = -1e9;
      for (std::int64_t h = b.top; h < b.bottom; ++h) {
        for (std::int64_t w = b.left; w < b.right; ++w) {
          const double v = static_cast<double>(m.x[m.x_at(n, h, w, channel)]);
          if (v <= y[at]) continue;
          y[at] = v;
          argmax[at] = static_cast<std::int32_t>(h * c.shape.width + w);
        }
      }
      grad[m.x_at(n, argmax[at] / c.shape.width, argmax[at] % c.shape.width, channel)] +=
          static_cast<double>(m.grad_y[at]);
    });
    Doubles accumulated = grad;
    for (std::size_t i = 0; i < grad.size(); ++i) accumulated[i] += static_cast<double>(m.old[i]);
    test::for_each_place(TypeParam::device, [&](test::Place place) {
      test::OnDevice on(place);
      Guarded<T> out(y.size(), m.misalign);
      Guarded<std::int32_t> where(y.size(), m.misalign);
      on.run([&](auto stream) {
        max_pool_forward(stream, {.dtype = dtype_of<T>(),
                                  .shape = c.shape,
                                  .window = c.window,
                                  .x = on(m.x),
                                  .y = on(out),
                                  .argmax = on(where)});
      });
      EXPECT_TRUE(out.intact() && where.intact());
      EXPECT_TRUE(test::all_near(out.values(), y, 0));
      EXPECT_EQ(where.values(), argmax);
      for (const GradMode mode : {GradMode::kOverwrite, GradMode::kAccumulate}) {
        Guarded<T> grad_x(m.old.values(), m.misalign);
        on.run([&](auto stream) {
          max_pool_backward(stream, {.dtype = dtype_of<T>(),
                                     .shape = c.shape,
                                     .window = c.window,
                                     .grad_y = on(m.grad_y),
                                     .argmax = on(where),
                                     .grad_x = on(grad_x),
                                     .mode = mode});
        });
        EXPECT_TRUE(grad_x.intact());
        EXPECT_TRUE(test::all_near(grad_x.values(), mode == GradMode::kOverwrite ? grad : accumulated, 0));
      }
    });
  }
}

// One channel per position of the first NaN in the window, a second NaN behind it, -Inf and +Inf around.
TYPED_TEST(PoolKernel, FirstNanWinsTheMaximum) {
  using T = typename TypeParam::Type;
  const double inf = std::numeric_limits<double>::infinity();
  for (int nan = 0; nan < 4; ++nan) {
    std::vector<T> x;
    for (int p = 0; p < 4; ++p) {
      for (int c = 0; c < 19; ++c) {
        const bool is_nan = c == 3 && (p == nan || p == 3);
        x.push_back(static_cast<T>(is_nan ? kNan : c == 5 ? -inf : c == 6 && p == 2 ? inf : p));
      }
    }
    Guarded<T> y(19);
    Guarded<std::int32_t> argmax(19);
    test::OnDevice on(TypeParam::device);
    on.run([&](auto stream) {
      max_pool_forward(stream, {.dtype = dtype_of<T>(),
                                .shape = {1, 2, 2, 19, 1, 1},
                                .window = {2, 2, 0},
                                .x = on(x),
                                .y = on(y),
                                .argmax = on(argmax)});
    });
    for (std::size_t c = 0; c < 19; ++c) {
      const double expected = c == 3 ? kNan : c == 5 ? -inf : c == 6 ? inf : 3;
      EXPECT_TRUE(test::within(static_cast<double>(y[c]), expected, 0)) << c;
      EXPECT_EQ(argmax[c], c == 3 ? nan : c == 5 ? 0 : c == 6 ? 2 : 3) << c;
    }
  }
}

// <pool(x), g> = <x, pool^T(g)>, exactly: sums over 4 pixels of small integers and a divisor of 4.
TYPED_TEST(PoolKernel, BackwardIsTheTranspose) {
  using T = typename TypeParam::Type;
  const PoolShape s{2, 8, 8, 17, 4, 4};
  Maps<T> m(TypeParam::device, s, 5, true);
  Guarded<T> y(m.grad_y.size()), grad_x(m.x.size());
  test::OnDevice on(TypeParam::device);
  on.run([&](auto stream) {
    avg_pool_forward(stream,
                     {.dtype = dtype_of<T>(), .shape = s, .window = {2, 2, 0}, .x = on(m.x), .y = on(y)});
  });
  on.run([&](auto stream) {
    avg_pool_backward(stream, {.dtype = dtype_of<T>(),
                               .shape = s,
                               .window = {2, 2, 0},
                               .grad_y = on(m.grad_y),
                               .grad_x = on(grad_x)});
  });
  double forward = 0, backward = 0, norm = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    forward += static_cast<double>(y[i]) * static_cast<double>(m.grad_y[i]);
    norm += std::abs(static_cast<double>(y[i]));
  }
  for (std::size_t i = 0; i < m.x.size(); ++i) {
    backward += static_cast<double>(m.x[i]) * static_cast<double>(grad_x[i]);
  }
  EXPECT_EQ(forward, backward);
  EXPECT_GT(norm, 0);
}

class PoolKernelErrors : public test::DeviceTest {};
COHORT_INSTANTIATE_DEVICES(PoolKernelErrors);

TEST_P(PoolKernelErrors, WindowOutsideOfTheMapIsRefused) {
  std::vector<float> x(100), y(100);
  const auto pool = [&](const PoolShape& s, const PoolWindow& w) {
    test::OnDevice on(GetParam());
    on.run([&](auto stream) { avg_pool_forward(stream, {.shape = s, .window = w, .x = on(x), .y = on(y)}); });
  };
  EXPECT_NO_THROW(pool({1, 4, 4, 1, 2, 2}, {2, 2, 0}));
  EXPECT_THROW(pool({1, 4, 4, 1, 3, 2}, {2, 2, 0}), Error);
  EXPECT_THROW(pool({1, 4, 4, 1, 2, 2}, {2, 2, 2}), Error);
  EXPECT_THROW(pool({1, 4, 4, 1, 2, 2}, {2, 0, 0}), Error);
}

}  // namespace
}  // namespace cohort::kernels
