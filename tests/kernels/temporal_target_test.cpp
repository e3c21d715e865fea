#include "kernels/temporal_target.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/devices.h"
#include "tests/support/random.h"
#include "tests/support/shapes.h"
#include "tests/support/tolerance.h"

namespace cohort::test {
namespace {

template <class T>
struct Case {
  using A = Accumulator<T>;
  std::int64_t rows, classes, samples;
  std::vector<T> logits = {};
  std::vector<std::int32_t> labels = {}, indices = {};
  std::vector<A> table = {};
  A delta = 0.3F;
  std::int32_t valid = -1;
  std::vector<T> former = {};

  // Half of the samples have a prediction.
  static Case draw(std::int64_t rows, std::int64_t classes, std::uint64_t seed) {
    Random random(seed);
    Case c{rows, classes, 3 * rows};
    c.logits = random.normals<T>(static_cast<std::size_t>(rows * classes), 0, 4);
    for (std::int64_t b = 0; b < rows; ++b)
      c.labels.push_back(static_cast<std::int32_t>(random.integer(0, static_cast<int>(classes) - 1)));
    std::vector<std::int32_t> all(static_cast<std::size_t>(c.samples));
    std::iota(all.begin(), all.end(), 0);
    for (std::size_t i = all.size() - 1; i > 0; --i)
      std::swap(all[i], all[static_cast<std::size_t>(random.integer(0, static_cast<int>(i)))]);
    c.indices.assign(all.begin(), all.begin() + rows);
    c.table.resize(static_cast<std::size_t>(c.samples * classes));
    for (std::size_t s = 0; s < all.size(); s += 2) {
      for (std::int64_t k = 0; k < classes; ++k)
        c.table[s * static_cast<std::size_t>(classes) + static_cast<std::size_t>(k)] =
            A{1} / static_cast<A>(k + 2);
    }
    return c;
  }

  struct Result {
    std::vector<A> target, table;
  };

  Result run(Place place, bool with_table = true) const {
    const Guarded<T> before(former.empty() ? logits : former, 1);
    const Guarded<T> z(logits, 1);
    const Guarded<std::int32_t> y(labels), at(indices);
    Guarded<A> memory(table, 1);
    Guarded<A> target(static_cast<std::size_t>(rows * classes), 1);
    OnDevice on(place);
    const kernels::TemporalTargetArgs args{.dtype = dtype_of<T>(),
                                           .rows = rows,
                                           .classes = classes,
                                           .samples = samples,
                                           .logits = on(z),
                                           .labels = on(y),
                                           .indices = on(at),
                                           .delta = on(delta),
                                           .valid_rows = valid < 0 ? nullptr : on(valid),
                                           .table = with_table ? on(memory) : nullptr,
                                           .former = former.empty() ? nullptr : on(before),
                                           .target = on(target)};
    on.run([&](auto stream) { kernels::temporal_target(stream, args); });
    EXPECT_TRUE(memory.intact() && target.intact());
    return {target.values(), memory.values()};
  }
};

template <class T>
void expect_reference(const Case<T>& c, Place place) {
  using A = Accumulator<T>;
  const auto r = c.run(place);
  const double u = 8 * unit_roundoff(dtype_of<A>());
  const std::int64_t valid = c.valid < 0 ? c.rows : c.valid;
  std::vector<double> target(r.target.size(), 0.0), table(c.table.begin(), c.table.end());
  for (std::int64_t b = 0; b < valid; ++b) {
    const auto row = static_cast<std::size_t>(b * c.classes);
    const auto at = static_cast<std::size_t>(c.indices[static_cast<std::size_t>(b)] * c.classes);
    const auto label = static_cast<std::size_t>(c.labels[static_cast<std::size_t>(b)]);
    const bool known = table[at] != 0;
    const double delta = known ? static_cast<double>(c.delta) : 0;
    double max = -1e300, sum = 0;
    for (std::size_t k = 0; k < static_cast<std::size_t>(c.classes); ++k) {
      target[row + k] = delta * table[at + k] + (k == label ? 1 - delta : 0);
      max = std::max(max, static_cast<double>(c.logits[row + k]));
    }
    for (std::size_t k = 0; k < static_cast<std::size_t>(c.classes); ++k)
      sum += std::exp(static_cast<double>(c.logits[row + k]) - max);
    for (std::size_t k = 0; k < static_cast<std::size_t>(c.classes); ++k)
      table[at + k] = std::exp(static_cast<double>(c.logits[row + k]) - max) / sum;
  }
  EXPECT_TRUE(all_within(r.target, target, [&](std::size_t i) { return u * std::abs(target[i]); }));
  // An exponential of -30 has 30 roundings of its argument.
  EXPECT_TRUE(all_within(r.table, table, [&](std::size_t i) {
    return (16 + sum_factor(c.classes, 1)) * u * std::abs(table[i]) + 1e-30;
  }));
}

template <class Param>
class TemporalTarget : public TypedDeviceTest<Param> {};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(TemporalTarget, Types, DeviceNames);

TYPED_TEST(TemporalTarget, MatchesReference) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = base_seed(61);
  for (const int rows : {1, 2, 3, 7, 33}) {
    for (const int classes : {1, 2, 3, 31, 32, 33, 100}) {
      COHORT_TRACE_SEED(++seed);
      auto c = Case<T>::draw(rows, classes, seed);
      if (seed % 3 == 0) c.valid = static_cast<std::int32_t>(seed % static_cast<std::uint64_t>(rows + 1));
      expect_reference(c, TypeParam::device);
    }
  }
}

// The specification's temporal label: d = 0.2 and the first network's predictions of an epoch ago.
TYPED_TEST(TemporalTarget, Golden) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  const Case<T> c{2,
                  3,
                  2,
                  std::vector<T>(6, T{}),
                  {0, 1},
                  {1, 0},
                  {A(0.519885), A(0.385140), A(0.094974), A(0.652991), A(0.293408), A(0.053601)},
                  A(0.2)};
  const double golden[] = {0.930598, 0.058682, 0.010720, 0.103977, 0.877028, 0.018995};
  const auto r = c.run(TypeParam::device);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_NEAR(static_cast<double>(r.target[i]), golden[i], 2e-6);
    EXPECT_NEAR(static_cast<double>(r.table[i]), 1.0 / 3, 1e-6) << "the present prediction takes its place";
  }
}

// Two epochs: the label, then the prediction that the first one left.
TYPED_TEST(TemporalTarget, FirstTheLabelThenWhatWasSaid) {
  using T = typename TypeParam::Type;
  auto c = Case<T>::draw(5, 10, base_seed());
  std::fill(c.table.begin(), c.table.end(), 0);
  const auto first = c.run(TypeParam::device);
  const auto blind = c.run(TypeParam::device, /*with_table=*/false);
  EXPECT_EQ(first.target, blind.target);
  for (std::size_t i = 0; i < 50; ++i)
    EXPECT_EQ(first.target[i], static_cast<std::int32_t>(i % 10) == c.labels[i / 10] ? 1 : 0);
  c.table = first.table;
  expect_reference(c, TypeParam::device);
}

// What a sick step thinks is not remembered; strangers' rows are left alone.
TYPED_TEST(TemporalTarget, RemembersNothingSickAndNobodyElse) {
  using T = typename TypeParam::Type;
  auto c = Case<T>::draw(4, 7, base_seed());
  c.logits[7 + 3] = T{std::numeric_limits<float>::quiet_NaN()};
  c.logits[2 * 7] = T{std::numeric_limits<float>::infinity()};
  c.indices[3] = 12;
  const auto r = c.run(TypeParam::device);
  for (std::size_t i = 0; i < c.table.size(); ++i) {
    if (static_cast<std::int32_t>(i / 7) == c.indices[0]) continue;
    EXPECT_EQ(r.table[i], c.table[i]) << i;
  }
  for (std::size_t k = 0; k < 7; ++k)
    EXPECT_EQ(r.target[3 * 7 + k], static_cast<std::int32_t>(k) == c.labels[3] ? 1 : 0) << "no such sample";
  c.labels[0] = 7;
  EXPECT_TRUE(std::isnan(static_cast<double>(c.run(TypeParam::device).target[0])));
}

// Answers given to the same samples in place of a table.
TYPED_TEST(TemporalTarget, TakesAnswersOfTheNetworkThatWas) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  std::uint64_t seed = base_seed(67);
  for (const int rows : {1, 3, 7, 33}) {
    for (const int classes : {1, 2, 3, 31, 33, 100}) {
      COHORT_TRACE_SEED(++seed);
      auto c = Case<T>::draw(rows, classes, seed);
      c.former = Random(seed).normals<T>(c.logits.size(), 0, 4);
      if (seed % 3 == 0) c.valid = rows - 1;
      const auto r = c.run(TypeParam::device, /*with_table=*/false);
      std::vector<double> target(r.target.size(), 0.0);
      const auto width = static_cast<std::size_t>(classes);
      for (std::size_t b = 0; b < static_cast<std::size_t>(c.valid < 0 ? rows : c.valid); ++b) {
        double sum = 0;
        for (std::size_t k = 0; k < width; ++k) sum += std::exp(static_cast<double>(c.former[b * width + k]));
        for (std::size_t k = 0; k < width; ++k) {
          target[b * width + k] =
              static_cast<double>(c.delta) * std::exp(static_cast<double>(c.former[b * width + k])) / sum +
              (static_cast<int>(k) == c.labels[b] ? 1 - static_cast<double>(c.delta) : 0);
        }
      }
      const double u = (16 + sum_factor(classes, 1)) * 8 * unit_roundoff(dtype_of<A>());
      EXPECT_TRUE(
          all_within(r.target, target, [&](std::size_t i) { return u * std::abs(target[i]) + 1e-30; }));
      EXPECT_TRUE(same_bits(r.table, c.table)) << "nothing is stored";
    }
  }
}

// Before there was a network a share of 0 keeps whatever stands there out; with a share it shows.
TYPED_TEST(TemporalTarget, AShareOfNothingReadsNoAnswers) {
  using T = typename TypeParam::Type;
  auto c = Case<T>::draw(4, 7, base_seed());
  c.former.assign(c.logits.size(), T{0.0F});
  c.former[7 + 3] = T{std::numeric_limits<float>::quiet_NaN()};
  const auto shared = c.run(TypeParam::device, /*with_table=*/false);
  c.delta = 0;
  const auto none = c.run(TypeParam::device, /*with_table=*/false);
  for (std::size_t i = 0; i < 28; ++i) {
    EXPECT_EQ(none.target[i], static_cast<std::int32_t>(i % 7) == c.labels[i / 7] ? 1 : 0) << i;
    EXPECT_EQ(std::isnan(static_cast<double>(shared.target[i])), i / 7 == 1) << i;
  }
}

TYPED_TEST(TemporalTarget, SameBitsInEveryRun) {
  using T = typename TypeParam::Type;
  const auto c = Case<T>::draw(33, 100, base_seed());
  const auto one = c.run(TypeParam::device);
  for_each_place(TypeParam::device, [&](Place place) {
    const auto other = c.run(place);
    EXPECT_TRUE(same_bits(one.target, other.target));
    EXPECT_TRUE(same_bits(one.table, other.table));
  });
}

class TemporalTargetContract : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(TemporalTargetContract);

TEST_P(TemporalTargetContract, RefusesWhatItCannotDo) {
  float x = 0;
  const std::int32_t i = 0;
  const kernels::TemporalTargetArgs good{.rows = 1,
                                         .classes = 1,
                                         .samples = 1,
                                         .logits = &x,
                                         .labels = &i,
                                         .indices = &i,
                                         .delta = &x,
                                         .table = &x,
                                         .target = &x};
  const auto refused = [&](const kernels::TemporalTargetArgs& args) {
    OnDevice on(GetParam());
    EXPECT_THROW(on.run([&](auto stream) { kernels::temporal_target(stream, args); }), Error);
  };
  auto bad = good;
  bad.indices = nullptr;
  refused(bad);
  bad = good;
  bad.delta = nullptr;
  refused(bad);
  bad = good;
  bad.former = &x;
  refused(bad);
  bad = good;
  bad.classes = 0;
  refused(bad);
}

}  // namespace
}  // namespace cohort::test
