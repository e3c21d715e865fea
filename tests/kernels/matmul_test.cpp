#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <vector>

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

struct Case {
  MatmulShape shape;
  DType a = DType::f32, b = DType::f32, c = DType::f32;
  bool bias = false;
  GradMode mode = GradMode::kOverwrite;
};

struct Operands {
  std::vector<double> a, b, bias, before;
};

std::vector<double> reference(const Case& test, const Operands& in, bool absolute = false) {
  const MatmulShape& s = test.shape;
  const auto value = [&](double v) { return absolute ? std::abs(v) : v; };
  std::vector<double> c(s.m * s.n);
  for (std::int64_t i = 0; i < s.m; ++i) {
    for (std::int64_t j = 0; j < s.n; ++j) {
      double sum = test.mode == GradMode::kAccumulate ? value(in.before[i * s.n + j]) : 0;
      for (std::int64_t p = 0; p < s.k; ++p) {
        sum += value(in.a[s.transpose_a ? p * s.m + i : i * s.k + p] *
                     in.b[s.transpose_b ? j * s.k + p : p * s.n + j]);
      }
      c[i * s.n + j] = test.bias ? sum + value(in.bias[j]) : sum;
    }
  }
  return c;
}

template <class T>
Guarded<T> guarded(const std::vector<double>& values, std::size_t misalign) {
  Guarded<T> out(values.size(), misalign);
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = static_cast<T>(values[i]);
  return out;
}

template <class A, class B, class C>
std::vector<double> run(test::Place place, const Case& test, const Operands& in) {
  const Guarded<A> a = guarded<A>(in.a, 1);
  const Guarded<B> b = guarded<B>(in.b, 3);
  const Guarded<Accumulator<C>> bias = guarded<Accumulator<C>>(in.bias, 0);
  Guarded<C> c(in.before.size(), 1);
  if (test.mode == GradMode::kAccumulate) c = guarded<C>(in.before, 1);
  const MatmulArgs sizes{.shape = test.shape, .a_dtype = test.a, .b_dtype = test.b, .c_dtype = test.c};
  std::size_t bytes = 0;
  test::OnDevice(place).run([&](auto stream) { bytes = matmul_workspace(stream, sizes); });
  Scratch scratch(bytes);
  test::OnDevice on(place);
  on.run([&](auto stream) {
    MatmulArgs args = sizes;
    args.a = on(a);
    args.b = on(b);
    args.bias = test.bias ? on(bias) : nullptr;
    args.c = on(c);
    args.mode = test.mode;
    args.workspace = on(scratch);
    matmul(stream, args);
  });
  EXPECT_TRUE(c.intact());
  EXPECT_TRUE(scratch.intact());
  std::vector<double> out;
  for (const C& v : c.values()) out.push_back(static_cast<double>(v));
  return out;
}

std::vector<double> run(test::Place place, const Case& test, const Operands& in) {
  if (test.c == DType::f64) return run<double, double, double>(place, test, in);
  const auto with_a = [&]<class A>(std::type_identity<A>) {
    const auto with_b = [&]<class B>(std::type_identity<B>) {
      return test.c == DType::f32 ? run<A, B, float>(place, test, in) : run<A, B, bf16>(place, test, in);
    };
    return test.b == DType::f32 ? with_b(std::type_identity<float>{}) : with_b(std::type_identity<bf16>{});
  };
  return test.a == DType::f32 ? with_a(std::type_identity<float>{}) : with_a(std::type_identity<bf16>{});
}

double rounded(double value, DType dtype) {
  return dtype == DType::f64   ? value
         : dtype == DType::f32 ? static_cast<double>(static_cast<float>(value))
                               : static_cast<double>(bf16(value));
}

template <class Draw>
Operands make_operands(const Case& test, Draw draw) {
  const MatmulShape& s = test.shape;
  const auto fill = [&](std::int64_t count, DType dtype) {
    std::vector<double> values(count);
    for (double& v : values) v = rounded(draw(), dtype);
    return values;
  };
  return {fill(s.m * s.k, test.a), fill(s.k * s.n, test.b), fill(s.n, accumulator_of(test.c)),
          fill(s.m * s.n, test.c)};
}

// Every combination of dtypes, with transpositions, bias and mode taking turns over awkward sizes and the
// real layers.
std::vector<Case> cases() {
  std::vector<Case> list;
  unsigned turn = 0;
  const std::vector<std::array<std::int64_t, 3>> sizes = {{1, 1, 1},      {1, 7, 3},     {2, 100, 64},
                                                          {33, 10, 17},   {31, 33, 129}, {128, 100, 64},
                                                          {100, 64, 128}, {129, 65, 7}};
  const DType mixed[] = {DType::f32, DType::bf16};
  for (const auto& [m, n, k] : sizes) {
    const auto add = [&](DType a, DType b, DType c) {
      list.push_back(
          {.shape = {.m = m, .n = n, .k = k, .transpose_a = (turn & 1) != 0, .transpose_b = (turn & 2) != 0},
           .a = a,
           .b = b,
           .c = c,
           .bias = (turn & 4) != 0,
           .mode = (turn & 8) != 0 ? GradMode::kAccumulate : GradMode::kOverwrite});
      turn = turn * 5 + 7;  // visits every combination
    };
    for (int repeat = 0; repeat < 2; ++repeat) {
      for (const DType a : mixed) {
        for (const DType b : mixed) {
          for (const DType c : mixed) add(a, b, c);
        }
      }
      add(DType::f64, DType::f64, DType::f64);
    }
  }
  return list;
}

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.shape.m << "x" << c.shape.n << "x" << c.shape.k << (c.shape.transpose_a ? " A^T" : " A")
             << (c.shape.transpose_b ? " B^T " : " B ") << name_of(c.a) << " " << name_of(c.b) << " -> "
             << name_of(c.c) << (c.bias ? " bias" : "") << (c.mode == GradMode::kAccumulate ? " added" : "");
}

using Matmul = test::DeviceTest;
COHORT_INSTANTIATE_DEVICES(Matmul);

TEST_P(Matmul, SmallIntegersAreExactForAnyNumberOfThreads) {
  Random random(test::base_seed());
  for (const Case& test : cases()) {
    SCOPED_TRACE(::testing::Message() << test);
    const Operands in = make_operands(test, [&] { return random.integer(-2, 2); });
    std::vector<double> expected = reference(test, in);
    for (double& v : expected) v = rounded(v, test.c);
    test::for_each_place(GetParam(), [&](test::Place place) { EXPECT_EQ(run(place, test, in), expected); });
  }
}

TEST_P(Matmul, RealValuesStayWithinTheErrorOfOneOrderedSumAndKeepTheirBits) {
  Random random(test::base_seed(2));
  for (const Case& test : cases()) {
    SCOPED_TRACE(::testing::Message() << test);
    const Operands in = make_operands(test, [&] { return random.normal(0.2); });
    const std::vector<double> expected = reference(test, in);
    const std::vector<double> sums = reference(test, in, true);
    std::vector<double> first;
    test::for_each_place(GetParam(), [&](test::Place place) {
      const std::vector<double> actual = run(place, test, in);
      if (first.empty()) first = actual;
      EXPECT_TRUE(actual == first) << "the number of threads changed bits";
      const test::SumTolerance t{.out = test.c, .n = test.shape.k + 2, .lanes = 1};
      EXPECT_TRUE(test::all_within(actual, expected,
                                   [&](std::size_t i) { return test::tolerance(t, sums[i], expected[i]); }));
    });
  }
}

TEST_P(Matmul, RefusesToMixDoubleWithOtherDtypes) {
  test::OnDevice(GetParam()).run([&](auto stream) {
    EXPECT_THROW(matmul(stream, {.shape = {.m = 1, .n = 1, .k = 1}, .a_dtype = DType::f64}), Error);
  });
}

template <class T>
void check_column_sum(test::Device device, std::int64_t rows, std::int64_t columns, GradMode mode,
                      Random& random) {
  using Sum = Accumulator<T>;
  const Guarded<T> x(random.integers<T>(rows * columns, -3, 3), 1);
  const std::vector<Sum> before = random.integers<Sum>(columns, -3, 3);
  std::vector<Sum> expected = mode == GradMode::kAccumulate ? before : std::vector<Sum>(columns, 0);
  for (std::int64_t i = 0; i < rows * columns; ++i) expected[i % columns] += static_cast<Sum>(x[i]);
  test::for_each_place(device, [&](test::Place place) {
    Guarded<Sum> sums(columns);
    if (mode == GradMode::kAccumulate) sums = Guarded<Sum>(before);
    ColumnSumArgs args{.rows = rows, .columns = columns, .dtype = dtype_of<T>(), .mode = mode};
    std::size_t bytes = 0;
    test::OnDevice(place).run([&](auto stream) { bytes = column_sum_workspace(stream, args); });
    Scratch scratch(bytes);
    test::OnDevice on(place);
    on.run([&](auto stream) {
      args.x = on(x);
      args.sums = on(sums);
      args.workspace = on(scratch);
      column_sum(stream, args);
    });
    EXPECT_EQ(sums.values(), expected);
    EXPECT_TRUE(sums.intact());
    EXPECT_TRUE(scratch.intact());
  });
}

using ColumnSum = test::DeviceTest;
COHORT_INSTANTIATE_DEVICES(ColumnSum);

TEST_P(ColumnSum, SmallIntegersAreExactForAnyNumberOfThreads) {
  Random random(test::base_seed(3));
  for (const std::int64_t rows : {1, 2, 7, 128, 1023, 1024, 1025, 5000}) {
    for (const std::int64_t columns : {1, 3, 16, 33, 100}) {
      SCOPED_TRACE(::testing::Message() << rows << "x" << columns);
      check_column_sum<float>(GetParam(), rows, columns, GradMode::kOverwrite, random);
      check_column_sum<bf16>(GetParam(), rows, columns, GradMode::kAccumulate, random);
      check_column_sum<double>(GetParam(), rows, columns, GradMode::kAccumulate, random);
    }
  }
}

}  // namespace
}  // namespace cohort::kernels
