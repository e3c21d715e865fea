#include "kernels/conv2d.h"

#include <gtest/gtest.h>

#include <optional>
#include <ostream>
#include <vector>

#include "tests/support/devices.h"
#include "tests/support/guard.h"
#include "tests/support/random.h"
#include "tests/support/shapes.h"
#include "tests/support/tolerance.h"

namespace cohort::kernels {

std::ostream& operator<<(std::ostream& out, const Conv2dShape& s) {
  return out << "[" << s.n << "," << s.h << "," << s.w << "," << s.c << "] " << s.k << " filters " << s.kh
             << "x" << s.kw << " stride " << s.stride << " padding " << s.padding << " dilation "
             << s.dilation << " groups " << s.groups;
}

namespace {

using test::Guarded;
using test::Random;
using test::Scratch;

// f(x index, weight index, y index) for every product of the convolution, from its definition.
template <class F>
void for_each_product(const Conv2dShape& s, F f) {
  const std::int64_t c_group = s.c / s.groups;
  for (std::int64_t n = 0; n < s.n; ++n)
    for (std::int64_t p = 0; p < s.out_h(); ++p)
      for (std::int64_t q = 0; q < s.out_w(); ++q)
        for (std::int64_t k = 0; k < s.k; ++k)
          for (int r = 0; r < s.kh; ++r)
            for (int t = 0; t < s.kw; ++t) {
              const std::int64_t row = p * s.stride - s.padding + r * s.dilation;
              const std::int64_t column = q * s.stride - s.padding + t * s.dilation;
              if (row < 0 || row >= s.h || column < 0 || column >= s.w) continue;
              for (std::int64_t i = 0; i < c_group; ++i) {
                const std::int64_t c = k / (s.k / s.groups) * c_group + i;
                f(((n * s.h + row) * s.w + column) * s.c + c, ((k * s.kh + r) * s.kw + t) * c_group + i,
                  ((n * s.out_h() + p) * s.out_w() + q) * s.k + k);
              }
            }
}

// What the three passes of one convolution produce, and in the reference also sums of absolute values.
struct Results {
  std::vector<double> y, grad_x, grad_weight, grad_bias;
  Results() = default;
  explicit Results(const Conv2dShape& s)
      : y(s.num_y()), grad_x(s.num_x()), grad_weight(s.num_weight()), grad_bias(s.k) {}
  bool operator==(const Results&) const = default;
};

struct Inputs {
  Conv2dShape shape;
  DType dtype = DType::f32;
  std::vector<double> x, weight, bias, grad_y;
  // What the outputs hold before: they are overwritten when absent.
  std::optional<Results> before;
};

Results reference(const Inputs& in, bool absolute = false) {
  const auto value = [&](double v) { return absolute ? std::abs(v) : v; };
  Results r(in.shape);
  const std::size_t k = in.bias.size();
  for (std::size_t i = 0; i < r.y.size(); ++i) r.y[i] = value(in.bias[i % k]);
  for (std::size_t i = 0; i < r.y.size(); ++i) r.grad_bias[i % k] += value(in.grad_y[i]);
  for_each_product(in.shape, [&](std::int64_t x, std::int64_t w, std::int64_t y) {
    r.y[y] += value(in.x[x] * in.weight[w]);
    r.grad_x[x] += value(in.grad_y[y] * in.weight[w]);
    r.grad_weight[w] += value(in.grad_y[y] * in.x[x]);
  });
  if (in.before) {
    for (std::size_t i = 0; i < r.grad_x.size(); ++i) r.grad_x[i] += value(in.before->grad_x[i]);
    for (std::size_t i = 0; i < r.grad_weight.size(); ++i)
      r.grad_weight[i] += value(in.before->grad_weight[i]);
    for (std::size_t i = 0; i < r.grad_bias.size(); ++i) r.grad_bias[i] += value(in.before->grad_bias[i]);
  }
  return r;
}

template <class T>
std::vector<T> narrow(const std::vector<double>& values) {
  std::vector<T> out;
  out.reserve(values.size());
  for (const double v : values) out.push_back(static_cast<T>(v));
  return out;
}

template <class T>
std::vector<double> widen(const Guarded<T>& values) {
  EXPECT_TRUE(values.intact());
  std::vector<double> out;
  for (const T& v : values.values()) out.push_back(static_cast<double>(v));
  return out;
}

// A GPU's engine takes aligned operands; others must take another way, which the shapes of one image show.
template <class T>
Results run(test::Place place, const Inputs& in) {
  using Sum = Accumulator<T>;
  const Conv2dShape& s = in.shape;
  const GradMode mode = in.before ? GradMode::kAccumulate : GradMode::kOverwrite;
  const std::size_t shift = place.device == test::Device::kCpu || s.n == 1 ? 1 : 0;
  const Guarded<T> x(narrow<T>(in.x), shift);
  const Guarded<T> weight(narrow<T>(in.weight), 3 * shift);
  const Guarded<T> grad_y(narrow<T>(in.grad_y));
  const Guarded<Sum> bias(narrow<Sum>(in.bias));
  Guarded<T> y(s.num_y(), shift);
  Guarded<T> grad_x(s.num_x());
  Guarded<Sum> grad_weight(s.num_weight(), shift);
  Guarded<Sum> grad_bias(s.k);
  if (in.before) {
    grad_x = Guarded<T>(narrow<T>(in.before->grad_x));
    grad_weight = Guarded<Sum>(narrow<Sum>(in.before->grad_weight));
    grad_bias = Guarded<Sum>(narrow<Sum>(in.before->grad_bias));
  }
  test::OnDevice on(place);
  const auto with_scratch = [&](Conv2dPass pass, auto call) {
    std::size_t bytes = 0;
    test::OnDevice(place).run([&](auto stream) { bytes = conv2d_workspace(stream, s, in.dtype, pass); });
    Scratch scratch(bytes);
    on.run([&](auto stream) { call(stream, on(scratch)); });
    EXPECT_TRUE(scratch.intact());
  };
  with_scratch(Conv2dPass::kForward, [&](auto stream, Workspace workspace) {
    conv2d_forward(stream, {.shape = s,
                            .dtype = in.dtype,
                            .x = on(x),
                            .weight = on(weight),
                            .bias = on(bias),
                            .y = on(y),
                            .workspace = workspace});
  });
  with_scratch(Conv2dPass::kBackwardData, [&](auto stream, Workspace workspace) {
    conv2d_backward_data(stream, {.shape = s,
                                  .dtype = in.dtype,
                                  .grad_y = on(grad_y),
                                  .weight = on(weight),
                                  .grad_x = on(grad_x),
                                  .mode = mode,
                                  .workspace = workspace});
  });
  with_scratch(Conv2dPass::kBackwardWeights, [&](auto stream, Workspace workspace) {
    conv2d_backward_weights(stream, {.shape = s,
                                     .dtype = in.dtype,
                                     .x = on(x),
                                     .grad_y = on(grad_y),
                                     .grad_weight = on(grad_weight),
                                     .weight_mode = mode,
                                     .grad_bias = on(grad_bias),
                                     .bias_mode = mode,
                                     .workspace = workspace});
  });
  Results r;
  r.y = widen(y);
  r.grad_x = widen(grad_x);
  r.grad_weight = widen(grad_weight);
  r.grad_bias = widen(grad_bias);
  return r;
}

Results run(test::Place place, const Inputs& in) {
  return dispatch_float(in.dtype, [&]<class T>(std::type_identity<T>) { return run<T>(place, in); });
}

double rounded(double value, DType dtype) {
  return dtype == DType::bf16  ? static_cast<double>(bf16(value))
         : dtype == DType::f32 ? static_cast<double>(static_cast<float>(value))
                               : value;
}

// Values drawn by `draw`, as the dtype holds them.
template <class Draw>
Inputs make_inputs(const Conv2dShape& s, DType dtype, bool accumulate, Draw draw) {
  const auto fill = [&](std::size_t count, DType as) {
    std::vector<double> values(count);
    for (double& v : values) v = rounded(draw(), as);
    return values;
  };
  Inputs in{.shape = s, .dtype = dtype, .x = {}, .weight = {}, .bias = {}, .grad_y = {}, .before = {}};
  in.x = fill(s.num_x(), dtype);
  in.weight = fill(s.num_weight(), dtype);
  in.bias = fill(s.k, accumulator_of(dtype));
  in.grad_y = fill(s.num_y(), dtype);
  if (accumulate) {
    in.before = Results(s);
    in.before->grad_x = fill(s.num_x(), dtype);
    in.before->grad_weight = fill(s.num_weight(), accumulator_of(dtype));
    in.before->grad_bias = fill(s.k, accumulator_of(dtype));
  }
  return in;
}

const std::vector<Conv2dShape>& awkward_shapes() {
  static const std::vector<Conv2dShape> shapes = [] {
    std::vector<Conv2dShape> list = {
        {.n = 1, .h = 1, .w = 1, .c = 1, .k = 1},
        {.n = 2, .h = 1, .w = 7, .c = 3, .k = 7, .kh = 1, .kw = 3, .padding = 1},
        {.n = 7, .h = 8, .w = 8, .c = 3, .k = 16, .kh = 3, .kw = 3, .padding = 1},
        {.n = 2, .h = 7, .w = 6, .c = 4, .k = 17, .kh = 5, .kw = 5, .stride = 2, .padding = 2},
        {.n = 33, .h = 8, .w = 8, .c = 16, .k = 16, .kh = 3, .kw = 3, .padding = 1},
        {.n = 9, .h = 7, .w = 5, .c = 16, .k = 32, .kh = 3, .kw = 3, .padding = 1},
        {.n = 9, .h = 2, .w = 33, .c = 32, .k = 16, .kh = 3, .kw = 3, .padding = 1},
        {.n = 3, .h = 8, .w = 8, .c = 64, .k = 64, .kh = 3, .kw = 3, .padding = 1},
        {.n = 2, .h = 9, .w = 6, .c = 48, .k = 16, .kh = 3, .kw = 3, .padding = 0},
        {.n = 2, .h = 5, .w = 7, .c = 128, .k = 96, .kh = 3, .kw = 3, .padding = 1},
        {.n = 3, .h = 4, .w = 4, .c = 80, .k = 192, .kh = 3, .kw = 3, .padding = 1},
        {.n = 2, .h = 6, .w = 6, .c = 16, .k = 16, .kh = 3, .kw = 3, .padding = 2},
        {.n = 17, .h = 8, .w = 8, .c = 16, .k = 32, .kh = 3, .kw = 3, .stride = 2, .padding = 1},
        {.n = 17, .h = 8, .w = 8, .c = 16, .k = 32, .stride = 2},
        {.n = 2, .h = 33, .w = 33, .c = 3, .k = 17, .kh = 7, .kw = 7, .stride = 2, .padding = 3},
        {.n = 1, .h = 33, .w = 33, .c = 16, .k = 16, .kh = 3, .kw = 3, .padding = 1},
        {.n = 2, .h = 8, .w = 8, .c = 17, .k = 33, .kh = 5, .kw = 5, .stride = 3, .padding = 5},
        {.n = 2,
         .h = 8,
         .w = 8,
         .c = 33,
         .k = 33,
         .kh = 3,
         .kw = 3,
         .padding = 2,
         .dilation = 2,
         .groups = 33},
        {.n = 7, .h = 8, .w = 8, .c = 32, .k = 32, .kh = 3, .kw = 3, .padding = 1, .groups = 32},
        {.n = 2, .h = 8, .w = 7, .c = 34, .k = 6, .kh = 3, .kw = 3, .stride = 2, .padding = 1, .groups = 2},
        {.n = 2, .h = 8, .w = 8, .c = 32, .k = 64, .kh = 3, .kw = 3, .padding = 1, .groups = 2},
    };
    // And a random walk over the rest.
    Random random(test::base_seed());
    const auto pick = [&](std::initializer_list<int> choices) {
      return *(choices.begin() + random.integer(0, static_cast<int>(choices.size()) - 1));
    };
    while (list.size() < 70) {
      Conv2dShape s;
      s.groups = pick({1, 1, 1, 2, 3});
      s.n = pick({1, 2, 3, 7, 33});
      s.h = pick({1, 2, 7, 8, 33});
      s.w = pick({1, 2, 7, 8, 33});
      s.c = s.groups * pick({1, 3, 7, 16, 17, 33});
      s.k = s.groups * pick({1, 3, 7, 16, 17, 33});
      s.kh = s.kw = pick({1, 3, 5, 7});
      s.stride = pick({1, 2, 3});
      s.dilation = pick({1, 1, 2});
      s.padding = random.integer(0, s.kh);
      if (s.num_y() > 0 && conv2d_flops(s) < 3'000'000) list.push_back(s);
    }
    return list;
  }();
  return shapes;
}

// F(4x4, 3x3) multiplies by sixths and roots of two: an integer comes out as a number next to it.
bool exact_in_integers(test::Device device, const Conv2dShape& s, DType dtype, Conv2dPass pass) {
  return device != test::Device::kCpu ||
         conv2d_implementation(CpuStream{}, s, dtype, pass).find("winograd_4x4") == std::string::npos;
}

std::vector<double> integers(std::vector<double> values, bool exact) {
  if (exact) return values;
  for (double& v : values) v = std::nearbyint(v);
  return values;
}

// A result in small integers, rounded to integers where the code that ran is not exact in them.
Results integers(test::Device device, const Conv2dShape& s, DType dtype, Results r) {
  r.y = integers(r.y, exact_in_integers(device, s, dtype, Conv2dPass::kForward));
  r.grad_x = integers(r.grad_x, exact_in_integers(device, s, dtype, Conv2dPass::kBackwardData));
  r.grad_weight = integers(r.grad_weight, exact_in_integers(device, s, dtype, Conv2dPass::kBackwardWeights));
  return r;
}

using Conv2d = test::DeviceTest;
COHORT_INSTANTIATE_DEVICES(Conv2d);

// An emulated thread costs what a hundred elements cost the CPU, and the emulated device's engine is plain
// loops: there, a device's own plain loops (f64, operands that are not aligned, three groups) are tried on
// the smallest shapes, and the engine on those that are not large.
std::vector<DType> dtypes_for(test::Device device, const Conv2dShape& s) {
  const std::vector<DType> all = {DType::f32, DType::bf16, DType::f64};
  if (device == test::Device::kCpu || !test::kEmulated) return all;
  if (conv2d_flops(s) < 40'000 && s.num_weight() < 500) return all;
  const bool plain = s.n == 1 || s.groups == 3;
  return plain || conv2d_flops(s) > 1'000'000 ? std::vector<DType>{}
                                              : std::vector<DType>{DType::f32, DType::bf16};
}

TEST_P(Conv2d, SmallIntegersAreExactForAnyNumberOfThreads) {
  Random random(test::base_seed(2));
  bool accumulate = false;
  for (const Conv2dShape& s : awkward_shapes()) {
    for (const DType dtype : dtypes_for(GetParam(), s)) {
      SCOPED_TRACE(::testing::Message() << s << " " << name_of(dtype) << (accumulate ? " accumulated" : ""));
      const Inputs in = make_inputs(s, dtype, accumulate, [&] { return random.integer(-2, 2); });
      Results expected = reference(in);
      for (double& v : expected.y) v = rounded(v, dtype);
      for (double& v : expected.grad_x) v = rounded(v, dtype);
      test::for_each_place(GetParam(), [&](test::Place place) {
        const Results actual = integers(GetParam(), s, dtype, run(place, in));
        EXPECT_EQ(actual.y, expected.y);
        EXPECT_EQ(actual.grad_x, expected.grad_x);
        EXPECT_EQ(actual.grad_weight, expected.grad_weight);
        EXPECT_EQ(actual.grad_bias, expected.grad_bias);
      });
      if (HasFailure()) return;
      accumulate = !accumulate;
    }
    accumulate = !accumulate;
  }
}

// The largest of 3x3 neighbours in the two middle dimensions.
std::vector<double> largest_neighbour(const std::vector<double>& v, std::int64_t n, std::int64_t h,
                                      std::int64_t w, std::int64_t c) {
  std::vector<double> out(v.size());
  for (std::int64_t i = 0; i < n * h * w * c; ++i) {
    const std::int64_t row = i / c / w % h;
    const std::int64_t column = i / c % w;
    for (std::int64_t p = std::max<std::int64_t>(row - 1, 0); p <= std::min(row + 1, h - 1); ++p) {
      for (std::int64_t q = std::max<std::int64_t>(column - 1, 0); q <= std::min(column + 1, w - 1); ++q) {
        out[i] = std::max(out[i], v[((i / c / w / h * h + p) * w + q) * c + i % c]);
      }
    }
  }
  return out;
}

// Sums of absolute products that bound each element's rounding error. Winograd in bf16 rounds transforms that
// mix the outputs of a tile and the taps of a filter, so the largest sum nearby counts; a direct sum rounds
// nothing of that.
std::vector<double> error_sums(const Conv2dShape& s, Conv2dPass pass, const Results& sums, bool mixed) {
  switch (pass) {
    case Conv2dPass::kForward:
      return mixed ? largest_neighbour(sums.y, s.n, s.out_h(), s.out_w(), s.k) : sums.y;
    case Conv2dPass::kBackwardData:
      return mixed ? largest_neighbour(sums.grad_x, s.n, s.h, s.w, s.c) : sums.grad_x;
    case Conv2dPass::kBackwardWeights:
      break;
  }
  return mixed ? largest_neighbour(sums.grad_weight, s.k, s.kh, s.kw, s.c / s.groups) : sums.grad_weight;
}

TEST_P(Conv2d, RealValuesStayWithinTheErrorOfOneOrderedSumAndKeepTheirBits) {
  Random random(test::base_seed(3));
  bool accumulate = true;
  for (const Conv2dShape& s : awkward_shapes()) {
    for (const DType dtype : dtypes_for(GetParam(), s)) {
      SCOPED_TRACE(::testing::Message() << s << " " << name_of(dtype));
      accumulate = !accumulate;
      const Inputs in = make_inputs(s, dtype, accumulate, [&] { return random.normal(0.2); });
      const Results expected = reference(in);
      const Results sums = reference(in, true);
      const auto check = [&](Conv2dPass pass, const std::vector<double>& actual,
                             const std::vector<double>& wanted, std::int64_t n, DType out) {
        std::string implementation;
        test::OnDevice(GetParam()).run([&](auto stream) {
          implementation = conv2d_implementation(stream, s, dtype, pass);
        });
        const bool winograd = implementation.find("winograd") != std::string::npos;
        const bool rounded_again = winograd && dtype == DType::bf16;
        const std::vector<double> sum = error_sums(s, pass, sums, rounded_again);
        const test::SumTolerance t{.out = out, .n = n, .lanes = 1, .operands_rounded = rounded_again};
        EXPECT_TRUE(test::all_within(actual, wanted,
                                     [&](std::size_t i) { return test::tolerance(t, sum[i], wanted[i]); }));
      };
      std::optional<Results> first;
      test::for_each_place(GetParam(), [&](test::Place place) {
        const Results actual = run(place, in);
        if (first) {
          EXPECT_TRUE(actual == *first) << "the number of threads changed bits";
          return;
        }
        first = actual;
        const std::int64_t taps = s.kh * s.kw / s.groups;
        const DType sum = accumulator_of(dtype);
        check(Conv2dPass::kForward, actual.y, expected.y, taps * s.c + 2, dtype);
        check(Conv2dPass::kBackwardData, actual.grad_x, expected.grad_x, taps * s.k + 2, dtype);
        check(Conv2dPass::kBackwardWeights, actual.grad_weight, expected.grad_weight, s.num_y() / s.k + 1,
              sum);
        EXPECT_TRUE(test::all_within(actual.grad_bias, expected.grad_bias, [&](std::size_t j) {
          return test::tolerance({.out = sum, .n = s.num_y() / s.k + 1, .lanes = 1}, sums.grad_bias[j],
                                 expected.grad_bias[j]);
        }));
      });
      if (HasFailure()) return;
    }
  }
}

double rms(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += x * x;
  return std::sqrt(sum / static_cast<double>(v.size()));
}

double relative_error(const std::vector<double>& actual, const std::vector<double>& wanted) {
  std::vector<double> difference(wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) difference[i] = actual[i] - wanted[i];
  return rms(difference) / rms(wanted);
}

// Root mean square error over root mean square value, in units of one rounding, for 16 to 128 channels:
// forward and backward data 3.0 to 8.1 for oneDNN's direct sum, 1.5 to 3.6 for F(2x2, 3x3), 1.8 to 2.8 for
// F(4x4, 3x3), whose sums are the shortest; backward weights 0.8 to 1.0, 1.4 to 1.7 and 1.2 to 2.0.
TEST(Conv2dCpu, LayersOfAResNetAreAsAccurateAsADirectSum) {
  Random random(test::base_seed(5));
  for (const std::int64_t c : {16, 32, 64, 128}) {
    const std::int64_t side = std::max<std::int64_t>(8, 512 / c);
    const Conv2dShape s{.n = 128 / c, .h = side, .w = side, .c = c, .k = c, .kh = 3, .kw = 3, .padding = 1};
    SCOPED_TRACE(::testing::Message() << s);
    const Inputs in = make_inputs(s, DType::f32, false, [&] { return random.normal(1); });
    const Results expected = reference(in);
    const Results actual = run(CpuStream{}, in);
    const double unit = test::unit_roundoff(DType::f32);
    EXPECT_LT(relative_error(actual.y, expected.y), 9 * unit);
    EXPECT_LT(relative_error(actual.grad_x, expected.grad_x), 9 * unit);
    EXPECT_LT(relative_error(actual.grad_weight, expected.grad_weight), 3 * unit);
  }
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// <conv(x, w), g> = <x, grad_x(g, w)> = <w, grad_weight(x, g)>: exact in small integers, and no reference
// takes part.
TEST_P(Conv2d, BackwardPassesAreTheAdjointsOfForward) {
  Random random(test::base_seed(4));
  for (const Conv2dShape& s : awkward_shapes()) {
    if (dtypes_for(GetParam(), s).empty()) continue;
    SCOPED_TRACE(::testing::Message() << s);
    Inputs in = make_inputs(s, DType::f32, false, [&] { return random.integer(-2, 2); });
    std::fill(in.bias.begin(), in.bias.end(), 0);
    const Results r = integers(GetParam(), s, DType::f32, run(GetParam(), in));
    const double forward = dot(r.y, in.grad_y);
    EXPECT_EQ(forward, dot(in.x, r.grad_x));
    EXPECT_EQ(forward, dot(in.weight, r.grad_weight));
  }
}

TEST_P(Conv2d, NotANumberReachesWhateverDependsOnIt) {
  const Conv2dShape s{.n = 2, .h = 8, .w = 8, .c = 16, .k = 16, .kh = 3, .kw = 3, .padding = 1};
  for (const DType dtype : dtypes_for(GetParam(), s)) {
    Inputs in = make_inputs(s, dtype, false, [] { return 1; });
    in.x[(8 * 3 + 4) * 16 + 5] = std::nan("");  // image 0, row 3, column 4
    const Results r = run(GetParam(), in);
    for (std::int64_t p = 2; p <= 4; ++p) {
      for (std::int64_t q = 3; q <= 5; ++q) EXPECT_TRUE(std::isnan(r.y[(8 * p + q) * 16]));
    }
    for (std::size_t i = r.y.size() / 2; i < r.y.size(); ++i)
      EXPECT_FALSE(std::isnan(r.y[i])) << "the other image";
  }
}

TEST_P(Conv2d, OnlyTheBiasMayLearn) {
  const Conv2dShape s{.n = 3, .h = 4, .w = 4, .c = 4, .k = 5, .kh = 3, .kw = 3, .padding = 1};
  const std::vector<float> grad_y(s.num_y(), 1);
  Guarded<float> grad_bias(5);
  test::OnDevice on(GetParam());
  Scratch scratch(16384);
  on.run([&](auto stream) {
    ASSERT_LE(conv2d_workspace(stream, s, DType::f32, Conv2dPass::kBackwardWeights), 16384U);
    conv2d_backward_weights(stream, {.shape = s,
                                     .dtype = DType::f32,
                                     .x = on(grad_y),
                                     .grad_y = on(grad_y),
                                     .grad_bias = on(grad_bias),
                                     .workspace = on(scratch)});
  });
  EXPECT_EQ(grad_bias.values(), std::vector<float>(5, 48));
}

// The convolutions of the CIFAR ResNets and wide ResNets at their training batch.
TEST(Conv2dCpu, NoLayerOfACifarResNetFallsToASlowPath) {
  std::vector<Conv2dShape> layers;
  const auto add = [&](int extent, int c, int k, int kernel, int stride) {
    for (const int batch : {64, 128, 100}) {
      layers.push_back({.n = batch,
                        .h = extent,
                        .w = extent,
                        .c = c,
                        .k = k,
                        .kh = kernel,
                        .kw = kernel,
                        .stride = stride,
                        .padding = kernel / 2});
    }
  };
  add(32, 3, 16, 3, 1);
  add(32, 3, 32, 3, 1);
  for (const int width : {16, 32, 64, 160}) {
    add(32, width, width, 3, 1);
    add(32, 16, width, 3, 1);
    add(32, 16, width, 1, 1);
    add(32, width, 2 * width, 3, 2);
    add(32, width, 2 * width, 1, 2);
    add(16, 2 * width, 2 * width, 3, 1);
    add(16, 2 * width, 4 * width, 3, 2);
    add(16, 2 * width, 4 * width, 1, 2);
    add(8, 4 * width, 4 * width, 3, 1);
  }
  for (const Conv2dShape& s : layers) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const Conv2dPass pass :
           {Conv2dPass::kForward, Conv2dPass::kBackwardData, Conv2dPass::kBackwardWeights}) {
        if (s.c == 3 && pass == Conv2dPass::kBackwardData) continue;  // nobody asks for the images' gradient
        const std::string name = conv2d_implementation(CpuStream{}, s, dtype, pass);
        for (const char* slow : {"ref", "gemm", "plain"}) {
          EXPECT_EQ(name.find(slow), std::string::npos)
              << s << " " << name_of(dtype) << " pass " << static_cast<int>(pass) << ": " << name;
        }
      }
    }
  }
}

}  // namespace
}  // namespace cohort::kernels
