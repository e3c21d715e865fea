#include "kernels/adam.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "tests/support/devices.h"
#include "tests/support/guard.h"
#include "tests/support/random.h"
#include "tests/support/shapes.h"
#include "tests/support/tolerance.h"

namespace cohort::kernels {
namespace {

using test::Guarded;

// torch.optim.Adam in double: step t, from 1.
void reference_step(int t, double rate, double decay, const std::vector<double>& gradient,
                    std::vector<double>& p, std::vector<double>& m, std::vector<double>& v) {
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double g = gradient[i] + decay * p[i];
    m[i] = 0.9 * m[i] + 0.1 * g;
    v[i] = 0.999 * v[i] + 0.001 * g * g;
    const double corrected = m[i] / (1 - std::pow(0.9, t));
    p[i] -= rate * corrected / (std::sqrt(v[i] / (1 - std::pow(0.999, t))) + 1e-8);
  }
}

template <class T>
struct Block {
  Block(std::size_t count, std::uint64_t seed, std::size_t misalign = 0)
      : parameter(test::Random(seed).normals<T>(count), misalign),
        gradient(test::Random(seed + 1).normals<T>(count), misalign),
        mean(std::vector<T>(count, T{0}), misalign),
        square(std::vector<T>(count, T{0}), misalign),
        steps(std::vector<std::int32_t>{0}),
        shadow(count, misalign) {}
  // To be made anew for each run: a run ends with the buffers back on the host.
  AdamBlock block(test::OnDevice& on, double decay = 0, int owner = 0) {
    return {.parameter = on(parameter),
            .gradient = on(std::as_const(gradient)),
            .mean = on(mean),
            .square = on(square),
            .steps = on(steps),
            .shadow = on(shadow),
            .count = static_cast<std::int64_t>(parameter.size()),
            .weight_decay = decay,
            .owner = owner};
  }
  bool intact() const {
    return parameter.intact() && gradient.intact() && mean.intact() && square.intact() && steps.intact() &&
           shadow.intact();
  }
  Guarded<T> parameter, gradient, mean, square;
  Guarded<std::int32_t> steps;
  Guarded<bf16> shadow;
};

template <class T>
std::vector<double> doubles(const Guarded<T>& values) {
  return std::vector<double>(values.data(), values.data() + values.size());
}

// One step of all blocks.
template <class T>
void run(test::Place place, std::vector<Block<T>*> blocks, const std::vector<T>& rates, double decay = 0,
         const std::vector<int>& owners = {}, const std::vector<std::int32_t>& mask = {}) {
  test::OnDevice on(place);
  std::vector<AdamBlock> all;
  for (std::size_t b = 0; b < blocks.size(); ++b)
    all.push_back(blocks[b]->block(on, decay, owners.empty() ? 0 : owners[b]));
  test::Scratch scratch(adam_workspace(all.size()));
  on.run([&](auto stream) {
    adam(stream,
         {.blocks = all,
          .learning_rate = on(rates),
          .step_mask = mask.empty() ? nullptr : on(mask),
          .dtype = dtype_of<T>()},
         on(scratch));
  });
  EXPECT_TRUE(scratch.intact());
}

template <class T>
void compare_with_reference(test::Device device, std::size_t count, int steps, double decay) {
  SCOPED_TRACE(testing::Message() << name_of(dtype_of<T>()) << " count " << count << " steps " << steps);
  Block<T> block(count, 3, count % 3);
  std::vector<double> p = doubles(block.parameter), m(count, 0.0), v(count, 0.0);
  const std::vector<T> rate{static_cast<T>(0.01)};
  for (int t = 1; t <= steps; ++t) {
    test::Random random(100 + static_cast<std::uint64_t>(t % 50));
    for (std::size_t i = 0; i < count; ++i) block.gradient[i] = static_cast<T>(random.normal());
    run<T>(device, {&block}, rate, decay);
    reference_step(t, static_cast<double>(rate[0]), decay, doubles(block.gradient), p, m, v);
  }
  EXPECT_TRUE(block.intact());
  EXPECT_EQ(block.steps[0], steps);
  // A step moves by about the rate, however small the gradient; constants are rounded to T as well.
  const double unit = test::unit_roundoff(dtype_of<T>());
  EXPECT_TRUE(test::all_within(doubles(block.parameter), p, [&](std::size_t i) {
    return 16 * unit * (std::abs(p[i]) + 1 + 0.01 * steps);
  }));
  EXPECT_TRUE(test::all_near(doubles(block.mean), m, 32 * unit));
  // 0.001 is what is left of 1 in T.
  EXPECT_TRUE(test::all_near(doubles(block.square), v, 32 * unit));
  for (std::size_t i = 0; i < count; ++i) EXPECT_EQ(block.shadow[i].bits, bf16(block.parameter[i]).bits) << i;
}

class Adam : public test::DeviceTest {};
COHORT_INSTANTIATE_DEVICES(Adam);

TEST_P(Adam, MatchesTheDoubleReference) {
  for (const double decay : {0.0, 0.1}) {
    for (const int steps : {1, 2, 10, 300}) {
      compare_with_reference<float>(GetParam(), 37, steps, decay);
      compare_with_reference<double>(GetParam(), 37, steps, decay);
    }
  }
}

TEST_P(Adam, EveryLength) {
  for (const int count : test::kLengths)
    compare_with_reference<float>(GetParam(), static_cast<std::size_t>(count), 3, 0.1);
  compare_with_reference<float>(GetParam(), 40'001, 2, 0.1);  // several chunks
  compare_with_reference<double>(GetParam(), 9'001, 2, 0);
}

// By hand: the first step moves every parameter by the rate, against the sign of its gradient.
TEST_P(Adam, TheFirstStepIsTheRate) {
  Block<double> block(3, 9);
  block.parameter[0] = block.parameter[1] = block.parameter[2] = 1;
  block.gradient[0] = 1e-3;
  block.gradient[1] = -50;
  block.gradient[2] = 0;
  run<double>(GetParam(), {&block}, {0.25});
  EXPECT_NEAR(block.parameter[0], 0.75, 1e-5);  // epsilon: 1e-8 beside 1e-3
  EXPECT_NEAR(block.parameter[1], 1.25, 1e-9);
  EXPECT_EQ(block.parameter[2], 1);
  EXPECT_NEAR(block.mean[1], -5, 1e-14);
  EXPECT_NEAR(block.square[1], 2.5, 1e-14);
}

TEST_P(Adam, StepsEachBlockByItsOwnersMaskAndItsOwnRateAndCounter) {
  std::vector<Block<float>> blocks;
  for (std::uint64_t b = 0; b < 4; ++b) blocks.emplace_back(b == 2 ? 20'000 : 7 + b, 20 + 2 * b);
  blocks[3].steps[0] = 41;
  const std::vector<Block<float>> before = blocks;
  const std::vector<float> rates{0.1F, 0.2F, 0.3F, 0.4F};
  const std::vector<int> owners{0, 1, 0, 2};
  run<float>(GetParam(), {&blocks[0], &blocks[1], &blocks[2], &blocks[3]}, rates, 0.1, owners, {1, 0, 7});
  for (std::size_t b = 0; b < 4; ++b) {
    SCOPED_TRACE(b);
    EXPECT_TRUE(blocks[b].intact());
    if (b == 1) {
      EXPECT_TRUE(test::same_bits(blocks[b].parameter.values(), before[b].parameter.values()));
      EXPECT_TRUE(test::same_bits(blocks[b].mean.values(), before[b].mean.values()));
      EXPECT_TRUE(test::same_bits(blocks[b].square.values(), before[b].square.values()));
      EXPECT_EQ(blocks[b].steps[0], 0);
      for (std::size_t i = 0; i < blocks[b].shadow.size(); ++i) EXPECT_EQ(blocks[b].shadow[i].bits, 0xFFFF);
      continue;
    }
    const int t = before[b].steps[0] + 1;
    EXPECT_EQ(blocks[b].steps[0], t);
    std::vector<double> p = doubles(before[b].parameter), m(p.size(), 0.0), v(p.size(), 0.0);
    reference_step(t, static_cast<double>(rates[b]), 0.1, doubles(before[b].gradient), p, m, v);
    EXPECT_TRUE(test::all_near(doubles(blocks[b].parameter), p, 1e-5));
  }
}

TEST_P(Adam, ThreadsAndTheirOrderDoNotChangeTheBits) {
  std::vector<float> expected;
  test::for_each_place(GetParam(), [&](test::Place place) {
    Block<float> a(30'003, 30), b(17, 31);
    for (int step = 0; step < 3; ++step) run<float>(place, {&a, &b}, {0.1F, 0.05F}, 0.1);
    std::vector<float> actual = a.parameter.values();
    const std::vector<float> more = b.parameter.values();
    actual.insert(actual.end(), more.begin(), more.end());
    if (expected.empty()) expected = actual;
    EXPECT_TRUE(test::same_bits(actual, expected));
  });
}

// More blocks than one set of kernel parameters holds, some of them empty.
TEST_P(Adam, UpdatesAHundredBlocks) {
  std::vector<Block<float>> blocks;
  std::vector<Block<float>*> all;
  std::vector<float> rates;
  std::vector<int> owners;
  std::vector<std::int32_t> mask;
  for (std::uint64_t b = 0; b < 100; ++b) {
    blocks.emplace_back(b % 7, b);
    rates.push_back(0.001F * static_cast<float>(b));
    owners.push_back(static_cast<int>(b));
    mask.push_back(b % 3 == 0 ? 0 : 1);
  }
  const std::vector<Block<float>> before = blocks;
  for (Block<float>& block : blocks) all.push_back(&block);
  run<float>(GetParam(), all, rates, 0, owners, mask);
  for (std::size_t b = 0; b < 100; ++b) {
    EXPECT_EQ(blocks[b].steps[0], mask[b]);
    for (std::size_t i = 0; i < b % 7; ++i) {
      const float moved = std::copysign(rates[b], before[b].gradient[i]) * static_cast<float>(mask[b]);
      EXPECT_NEAR(blocks[b].parameter[i], before[b].parameter[i] - moved, 1e-5F);
    }
  }
}

// A gradient that is not finite reaches the parameters: refusing it is the step mask's work. Without decay a
// parameter that is not finite leaves the averages alone.
TEST_P(Adam, NonFiniteValues) {
  Block<float> block(3, 40);
  block.gradient[0] = std::numeric_limits<float>::quiet_NaN();
  block.parameter[1] = std::numeric_limits<float>::infinity();
  run<float>(GetParam(), {&block}, {0.1F});
  EXPECT_TRUE(std::isnan(block.parameter[0]));
  EXPECT_TRUE(std::isfinite(block.mean[1]));
  EXPECT_TRUE(std::isfinite(block.parameter[2]));
}

TEST(AdamScale, CorrectsAsPowersDo) {
  for (const std::int32_t t : {1, 2, 3, 7, 100, 117'000, 2'000'000'000}) {
    const AdamScale scale = adam_scale(2e-5, 0.9, 0.999, t);
    EXPECT_NEAR(scale.rate * (1 - std::pow(0.9, t)), 2e-5, 1e-18) << t;
    EXPECT_NEAR(scale.root * std::sqrt(1 - std::pow(0.999, t)), 1, 1e-12) << t;
  }
}

}  // namespace
}  // namespace cohort::kernels
