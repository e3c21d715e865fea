#include "kernels/sgd.h"

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

struct Case {
  double momentum = 0.9;
  bool nesterov = false;
  double weight_decay = 5e-4;
  std::int64_t num_decayed = -1;
};

// One step of torch.optim.SGD in double.
void reference_step(const Case& c, double rate, const std::vector<double>& gradient, std::vector<double>& p,
                    std::vector<double>& v) {
  for (std::size_t i = 0; i < p.size(); ++i) {
    const bool decays = c.num_decayed < 0 || static_cast<std::int64_t>(i) < c.num_decayed;
    const double g = gradient[i] + (decays ? c.weight_decay * p[i] : 0.0);
    v[i] = c.momentum * v[i] + g;
    p[i] -= rate * (c.nesterov ? g + c.momentum * v[i] : v[i]);
  }
}

template <class T>
struct Block {
  Block(std::size_t count, std::uint64_t seed, std::size_t misalign = 0)
      : parameter(test::Random(seed).normals<T>(count), misalign),
        gradient(test::Random(seed + 1).normals<T>(count), misalign),
        momentum(std::vector<T>(count, T{0}), misalign),
        shadow(count, misalign) {}
  // To be made anew for each run: a run ends with the buffers back on the host.
  SgdMember member(test::OnDevice& on, const Case& c = {}) {
    return {on(parameter),
            on(std::as_const(gradient)),
            on(momentum),
            on(shadow),
            static_cast<std::int64_t>(parameter.size()),
            c.num_decayed,
            c.weight_decay};
  }
  void expect_intact() const {
    EXPECT_TRUE(parameter.intact());
    EXPECT_TRUE(gradient.intact());
    EXPECT_TRUE(momentum.intact());
    EXPECT_TRUE(shadow.intact());
  }
  Guarded<T> parameter, gradient, momentum;
  Guarded<bf16> shadow;
};

template <class T>
std::vector<double> doubles(const Guarded<T>& values) {
  return std::vector<double>(values.data(), values.data() + values.size());
}

template <class T>
void compare_with_reference(test::Device device, const Case& c, std::size_t count, int steps) {
  SCOPED_TRACE(testing::Message() << name_of(dtype_of<T>()) << " count " << count << " steps " << steps
                                  << " momentum " << c.momentum << " nesterov " << c.nesterov);
  Block<T> block(count, 3, count % 3);
  std::vector<double> p = doubles(block.parameter);
  std::vector<double> v(count, 0.0);
  const std::vector<float> rate{0.01F};
  for (int step = 0; step < steps; ++step) {
    test::Random random(100 + static_cast<std::uint64_t>(step % 50));
    for (std::size_t i = 0; i < count; ++i) block.gradient[i] = static_cast<T>(random.normal());
    test::OnDevice on(device);
    const SgdMember member = block.member(on, c);
    on.run([&](auto stream) {
      sgd(stream, SgdArgs{.members = {&member, 1},
                          .learning_rate = on(rate),
                          .momentum = c.momentum,
                          .nesterov = c.nesterov,
                          .dtype = dtype_of<T>()});
    });
    reference_step(c, static_cast<double>(rate[0]), doubles(block.gradient), p, v);
  }
  block.expect_intact();
  // Each step rounds p and v a few times; constants such as 0.9 are rounded to T as well.
  const double unit = test::unit_roundoff(dtype_of<T>());
  EXPECT_TRUE(test::all_within(doubles(block.parameter), p, [&](std::size_t i) {
    return 8 * unit * (std::abs(p[i]) + std::sqrt(steps) + steps * 1e-2);
  }));
  if (c.momentum != 0.0) {
    EXPECT_TRUE(test::all_near(doubles(block.momentum), v, 8 * unit * (30 + steps * 1e-2)));
  }
  for (std::size_t i = 0; i < count; ++i) {
    EXPECT_EQ(block.shadow[i].bits, bf16(block.parameter[i]).bits) << i;
  }
}

class Sgd : public test::DeviceTest {};
COHORT_INSTANTIATE_DEVICES(Sgd);

TEST_P(Sgd, MatchesTheDoubleReference) {
  for (const double momentum : {0.9, 0.0}) {
    for (const bool nesterov : {false, true}) {
      for (const int steps : {1, 10, 1000}) {
        const Case c{.momentum = momentum, .nesterov = nesterov && momentum != 0.0};
        compare_with_reference<float>(GetParam(), c, 37, steps);
        compare_with_reference<double>(GetParam(), c, 37, steps);
      }
    }
  }
}

TEST_P(Sgd, EveryLength) {
  for (const int count : test::kLengths) {
    compare_with_reference<float>(GetParam(), {.nesterov = true}, static_cast<std::size_t>(count), 3);
  }
  compare_with_reference<float>(GetParam(), {}, 40'001, 2);  // several chunks
}

TEST_P(Sgd, DecaysOnlyTheLeadingElements) {
  for (const std::int64_t decayed : {0, 1, 16'384, 16'390, 32'770}) {
    compare_with_reference<float>(GetParam(), {.weight_decay = 0.1, .num_decayed = decayed}, 32'770, 2);
  }
}

TEST_P(Sgd, IsExactOnSmallIntegers) {
  Block<float> block(33, 9);
  test::Random random(10);
  std::vector<double> p, v, g;
  for (std::size_t i = 0; i < 33; ++i) {
    p.push_back(block.parameter[i] = static_cast<float>(random.integer(-64, 64)));
    v.push_back(block.momentum[i] = static_cast<float>(random.integer(-64, 64)));
    g.push_back(block.gradient[i] = static_cast<float>(random.integer(-64, 64)));
  }
  const Case c{.momentum = 0.5, .nesterov = true, .weight_decay = 0.25};
  test::OnDevice on(GetParam());
  const std::vector<float> rate{0.125F};
  for (int step = 0; step < 2; ++step) {
    const SgdMember member = block.member(on, c);
    on.run([&](auto stream) {
      sgd(stream, {.members = {&member, 1}, .learning_rate = on(rate), .momentum = 0.5, .nesterov = true});
    });
    reference_step(c, 0.125, g, p, v);
  }
  for (std::size_t i = 0; i < 33; ++i) {
    EXPECT_EQ(static_cast<double>(block.parameter[i]), p[i]);
    EXPECT_EQ(static_cast<double>(block.momentum[i]), v[i]);
  }
}

// Momentum 0 is p - lr g, does not touch the buffer and does not need one.
TEST_P(Sgd, WithoutMomentumIsAxpy) {
  Block<float> block(1001, 5);
  const Guarded<float> before = block.parameter;
  for (std::size_t i = 0; i < 1001; ++i) block.momentum[i] = std::numeric_limits<float>::quiet_NaN();
  test::OnDevice on(GetParam());
  SgdMember member = block.member(on, {.weight_decay = 0.0});
  const std::vector<float> rate{0.5F};  // a power of two: the product is exact, fused or not
  on.run([&](auto stream) {
    sgd(stream, {.members = {&member, 1}, .learning_rate = on(rate), .momentum = 0.0});
  });
  for (std::size_t i = 0; i < 1001; ++i) {
    EXPECT_EQ(block.parameter[i], before[i] - 0.5F * block.gradient[i]);
    EXPECT_TRUE(std::isnan(block.momentum[i]));
  }
  member = block.member(on);
  member.momentum = nullptr;
  on.run([&](auto stream) {
    sgd(stream, {.members = {&member, 1}, .learning_rate = on(rate), .momentum = 0.0});
  });
}

// Without decay the parameter enters no product: the momentum of a parameter that is not finite stays finite,
// and -0 gradients stay -0.
TEST_P(Sgd, NoDecayMeansNoTerm) {
  Block<float> block(3, 5);
  block.parameter[0] = std::numeric_limits<float>::infinity();
  block.gradient[1] = -0.0F;
  block.momentum[1] = -0.0F;
  test::OnDevice on(GetParam());
  const SgdMember member = block.member(on, {.weight_decay = 0.0});
  const std::vector<float> rate{1.0F};
  on.run([&](auto stream) { sgd(stream, {.members = {&member, 1}, .learning_rate = on(rate)}); });
  EXPECT_EQ(block.momentum[0], block.gradient[0]);
  EXPECT_TRUE(std::signbit(block.momentum[1]));
}

TEST_P(Sgd, ZeroGradientAndNoDecayLeaveParametersAlone) {
  Block<float> block(100, 6);
  const Guarded<float> before = block.parameter;
  for (std::size_t i = 0; i < 100; ++i) block.gradient[i] = 0.0F;
  test::OnDevice on(GetParam());
  const SgdMember member = block.member(on, {.weight_decay = 0.0});
  const std::vector<float> rate{0.1F};
  on.run([&](auto stream) { sgd(stream, {.members = {&member, 1}, .learning_rate = on(rate)}); });
  EXPECT_TRUE(test::same_bits(block.parameter.values(), before.values()));
}

TEST_P(Sgd, UpdatesEachMemberWithItsOwnRateAndMask) {
  std::vector<Block<float>> blocks;
  for (std::uint64_t k = 0; k < 4; ++k) blocks.emplace_back(k == 2 ? 20'000 : 7 + k, 20 + 2 * k);
  const std::vector<Block<float>> before = blocks;
  test::OnDevice on(GetParam());
  std::vector<SgdMember> members;
  for (Block<float>& block : blocks) members.push_back(block.member(on, {.weight_decay = 1e-3}));
  members[3].weight_decay = 0.5;
  const std::vector<float> rates{0.1F, 0.2F, 0.3F, 0.4F};
  const std::vector<std::int32_t> mask{1, 0, 7, 1};
  on.run([&](auto stream) {
    sgd(stream, {.members = members, .learning_rate = on(rates), .step_mask = on(mask)});
  });
  for (std::size_t k = 0; k < 4; ++k) {
    SCOPED_TRACE(k);
    blocks[k].expect_intact();
    if (mask[k] == 0) {
      EXPECT_TRUE(test::same_bits(blocks[k].parameter.values(), before[k].parameter.values()));
      EXPECT_TRUE(test::same_bits(blocks[k].momentum.values(), before[k].momentum.values()));
      for (std::size_t i = 0; i < blocks[k].shadow.size(); ++i) EXPECT_EQ(blocks[k].shadow[i].bits, 0xFFFF);
      continue;
    }
    std::vector<double> p = doubles(before[k].parameter);
    std::vector<double> v(p.size(), 0.0);
    reference_step({.weight_decay = members[k].weight_decay}, static_cast<double>(rates[k]),
                   doubles(before[k].gradient), p, v);
    EXPECT_TRUE(test::all_near(doubles(blocks[k].parameter), p, 4e-6));
  }
}

TEST_P(Sgd, ThreadsAndTheirOrderDoNotChangeTheBits) {
  std::vector<float> expected;
  test::for_each_place(GetParam(), [&](test::Place place) {
    Block<float> a(50'003, 30);
    Block<float> b(17, 31);
    const std::vector<float> rates{0.1F, 0.05F};
    for (int step = 0; step < 3; ++step) {
      test::OnDevice on(place);
      const SgdMember members[] = {a.member(on), b.member(on)};
      on.run([&](auto stream) {
        sgd(stream, {.members = members, .learning_rate = on(rates), .nesterov = true});
      });
    }
    std::vector<float> actual = a.parameter.values();
    const std::vector<float> more = b.parameter.values();
    actual.insert(actual.end(), more.begin(), more.end());
    if (expected.empty()) expected = actual;
    EXPECT_TRUE(test::same_bits(actual, expected));
  });
}

// More members than one set of kernel parameters holds.
TEST_P(Sgd, UpdatesAHundredMembers) {
  std::vector<Block<float>> blocks;
  std::vector<float> rates;
  std::vector<std::int32_t> mask;
  for (std::uint64_t k = 0; k < 100; ++k) {
    blocks.emplace_back(k % 7, k);
    rates.push_back(static_cast<float>(k));
    mask.push_back(k % 3 == 0 ? 0 : 1);
  }
  const std::vector<Block<float>> before = blocks;
  test::OnDevice on(GetParam());
  std::vector<SgdMember> members;
  for (Block<float>& block : blocks) members.push_back(block.member(on, {.weight_decay = 0}));
  on.run([&](auto stream) {
    sgd(stream, {.members = members, .learning_rate = on(rates), .step_mask = on(mask), .momentum = 0});
  });
  for (std::size_t k = 0; k < 100; ++k) {
    for (std::size_t i = 0; i < k % 7; ++i) {
      const double step =
          mask[k] * static_cast<double>(rates[k]) * static_cast<double>(before[k].gradient[i]);
      EXPECT_NEAR(static_cast<double>(blocks[k].parameter[i]),
                  static_cast<double>(before[k].parameter[i]) - step, 1e-4);
    }
  }
}

// A gradient that is not finite reaches the parameters: refusing it is the step mask's work.
TEST_P(Sgd, PropagatesNonFiniteGradients) {
  Block<float> block(2, 40);
  block.gradient[0] = std::numeric_limits<float>::quiet_NaN();
  test::OnDevice on(GetParam());
  const SgdMember member = block.member(on);
  const std::vector<float> rate{0.1F};
  on.run([&](auto stream) { sgd(stream, {.members = {&member, 1}, .learning_rate = on(rate)}); });
  EXPECT_TRUE(std::isnan(block.parameter[0]));
  EXPECT_TRUE(std::isfinite(block.parameter[1]));
}

TEST_P(Sgd, AcceptsEmptyMembers) {
  test::OnDevice on(GetParam());
  const SgdMember member;
  const std::vector<float> rate{0.1F};
  on.run([&](auto stream) { sgd(stream, {.members = {&member, 1}, .learning_rate = on(rate)}); });
  on.run([&](auto stream) { sgd(stream, {.members = {}, .learning_rate = on(rate)}); });
}

}  // namespace
}  // namespace cohort::kernels
