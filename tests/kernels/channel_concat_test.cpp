#include "kernels/channel_concat.h"

#include <gtest/gtest.h>

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

struct Case {
  std::int64_t rows, groups;
  ChannelPart a, b;
  std::int64_t channels() const { return a.count + b.count; }
};

// Concatenations, shuffles, slices and all of them at once; the last ones as in ShuffleNet.
const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {1, 1, {1, 0, 1}, {}},
      {3, 1, {3, 0, 3}, {7, 0, 7}},
      {7, 3, {31, 0, 31}, {33, 3, 29}},
      {31, 5, {5, 0, 5}, {}},
      {33, 2, {7, 1, 3}, {9, 6, 3}},
      {3, 1, {33, 31, 2}, {}},
      {2, 1, {16, 3, 8}, {16, 8, 8}},
      {2, 4, {8, 0, 8}, {8, 0, 8}},
      {300, 1, {216, 0, 216}, {24, 0, 24}},
      {129, 3, {60, 0, 60}, {}},
      {257, 2, {116, 0, 58}, {58, 0, 58}},
      {65, 1, {232, 116, 116}, {}},
  };
  return all;
}

std::size_t size(std::int64_t n) {
  return static_cast<std::size_t>(n);
}

// The index of the element of a (second false) or b (second true) that becomes y[row, c].
std::pair<std::size_t, bool> source(const Case& s, std::int64_t row, std::int64_t c) {
  const std::int64_t k = c % s.groups * (s.channels() / s.groups) + c / s.groups;
  if (k < s.a.count) return {size(row * s.a.channels + s.a.first + k), false};
  return {size(row * s.b.channels + s.b.first + k - s.a.count), true};
}

template <class Param>
using ChannelConcatKernel = test::TypedDeviceTest<Param>;
using Types = test::OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(ChannelConcatKernel, Types, test::DeviceNames);

TYPED_TEST(ChannelConcatKernel, ForwardIsAPermutation) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = 0;
  for (const Case& s : cases()) {
    SCOPED_TRACE(::testing::Message() << "case " << seed);
    Random random(++seed);
    const Guarded<T> a(random.normals<T>(size(s.rows * s.a.channels)), seed % 3);
    const Guarded<T> b(random.normals<T>(size(s.rows * s.b.channels)), seed % 3);
    std::vector<T> expected;
    for (std::int64_t row = 0; row < s.rows; ++row) {
      for (std::int64_t c = 0; c < s.channels(); ++c) {
        const auto [at, second] = source(s, row, c);
        expected.push_back(second ? b[at] : a[at]);
      }
    }
    test::for_each_place(TypeParam::device, [&](test::Place place) {
      Guarded<T> y(expected.size(), seed % 3);
      test::OnDevice on(place);
      on.run([&](auto stream) {
        channel_concat_forward(stream, {.dtype = dtype_of<T>(),
                                        .rows = s.rows,
                                        .groups = s.groups,
                                        .part_a = s.a,
                                        .part_b = s.b,
                                        .a = on(a),
                                        .b = on(b),
                                        .y = on(y)});
      });
      EXPECT_TRUE(y.intact());
      EXPECT_TRUE(test::same_bits(y.values(), expected));
    });
  }
}

// Small integers: sums are exact in every dtype. What no part takes is 0, or left alone where gradients add
// up.
TYPED_TEST(ChannelConcatKernel, BackwardIsTheTranspose) {
  using T = typename TypeParam::Type;
  std::uint64_t seed = 100;
  for (const Case& s : cases()) {
    SCOPED_TRACE(::testing::Message() << "case " << seed - 100);
    Random random(++seed);
    const Guarded<T> grad_y(random.integers<T>(size(s.rows * s.channels()), -9, 9), seed % 3);
    for (const bool second : {false, true}) {
      const ChannelPart part = second ? s.b : s.a;
      if (part.count == 0) continue;
      const std::vector<T> old = random.integers<T>(size(s.rows * part.channels), -9, 9);
      Doubles gradient(old.size());
      for (std::size_t i = 0; i < grad_y.size(); ++i) {
        const auto c = static_cast<std::int64_t>(i);
        const auto [at, of_b] = source(s, c / s.channels(), c % s.channels());
        if (of_b == second) gradient[at] += static_cast<double>(grad_y[i]);
      }
      for (const GradMode mode : {GradMode::kOverwrite, GradMode::kAccumulate}) {
        Doubles expected = gradient;
        for (std::size_t i = 0; i < old.size() && mode == GradMode::kAccumulate; ++i) {
          expected[i] += static_cast<double>(old[i]);
        }
        test::for_each_place(TypeParam::device, [&](test::Place place) {
          Guarded<T> grad_part(old, seed % 3);
          test::OnDevice on(place);
          on.run([&](auto stream) {
            channel_concat_backward(stream, {.dtype = dtype_of<T>(),
                                             .rows = s.rows,
                                             .groups = s.groups,
                                             .channels = s.channels(),
                                             .part = part,
                                             .offset = second ? s.a.count : 0,
                                             .grad_y = on(grad_y),
                                             .grad_part = on(grad_part),
                                             .mode = mode});
          });
          EXPECT_TRUE(grad_part.intact());
          EXPECT_TRUE(test::all_near(grad_part.values(), expected, 0));
        });
      }
    }
  }
}

}  // namespace
}  // namespace cohort::kernels
