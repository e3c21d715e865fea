// The distribution of everything that the perturbations P1 to P11 draw: operations, members, parameters one
// by one and together, rows, permutations, noise; and that the tests used here find draws that are skewed.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/perturb.h"
#include "tests/kernels/perturb_fixture.h"
#include "tests/support/statistics.h"

namespace cohort::kernels {
namespace {

using test::are_independent;
using test::counts_are_uniform;
using test::values_are_uniform;
using test::values_fit;

constexpr std::uint32_t kDraws = 20'000;
constexpr int kSize = 1000;  // pixels: positions are almost continuous
constexpr std::uint64_t kSeed = 3;

using Values = std::map<std::string, std::vector<double>>;

double d(float value) {
  return static_cast<double>(value);
}

// What an operation draws, by name; `at` is the step or, per sample, the row.
Values parameters(PerturbOp op, bool per_sample = false, std::uint64_t seed = kSeed, std::uint32_t member = 1,
                  std::uint32_t first = 0) {
  PerturbOptions options = paper_perturbation(32);
  options.per_sample = per_sample;
  Values v;
  for (std::uint32_t at = first; at < first + kDraws; ++at) {
    const PerturbDraw draw =
        draw_perturb(op, options, seed, member, per_sample ? 7 : at, per_sample ? at : 0, kSize, kSize);
    const double width = draw.x1 - draw.x0, height = draw.y1 - draw.y0;
    switch (op) {
      case PerturbOp::kMixup:
        v["lambda"].push_back(d(draw.lambda));
        break;
      case PerturbOp::kCutMix:
        v["width"].push_back(width);
        v["height"].push_back(height);
        break;
      case PerturbOp::kSplice:
        v["split_x"].push_back(draw.x0);
        v["split_y"].push_back(draw.y0);
        for (int k = 0; k < 4; ++k) {  // shares of the room that the part leaves
          const int room_x = kSize - ((k & 1) == 0 ? draw.x0 : kSize - draw.x0);
          const int room_y = kSize - ((k & 2) == 0 ? draw.y0 : kSize - draw.y0);
          v["offset_x" + std::to_string(k)].push_back((draw.offset_x[k] + 0.5) / (room_x + 1));
          v["offset_y" + std::to_string(k)].push_back((draw.offset_y[k] + 0.5) / (room_y + 1));
        }
        break;
      case PerturbOp::kNoise:
        v["sigma"].push_back(d(draw.sigma));
        break;
      case PerturbOp::kAffine: {
        const double inverse = d(draw.matrix[0]), slope = d(draw.matrix[1]);
        const double c = 0.5 * (kSize - 1), oy = (d(draw.matrix[5]) - c) / inverse;
        v["scale"].push_back(1 / inverse);
        v["shear"].push_back(std::atan(slope / inverse));
        v["shift_y"].push_back((-oy - c) / kSize);
        v["shift_x"].push_back((-(d(draw.matrix[2]) - c - slope * oy) / inverse - c) / kSize);
        break;
      }
      case PerturbOp::kCrop:
        v["area"].push_back(width * height / (1.0 * kSize * kSize));
        v["tilt"].push_back(std::log(width / height));
        v["left"].push_back((draw.x0 + 0.5) / (kSize + 1 - width));
        v["top"].push_back((draw.y0 + 0.5) / (kSize + 1 - height));
        break;
      case PerturbOp::kRotate:
        v["angle"].push_back(std::atan2(d(draw.matrix[3]), d(draw.matrix[0])));
        break;
      case PerturbOp::kJitter: {
        const char* const names[] = {"brightness", "contrast", "saturation", "hue"};
        for (int k = 0; k < 4; ++k) v[names[k]].push_back(d(draw.factor[k]));
        v["blur"].push_back(d(draw.sigma));
        int code = 0;
        for (int i = 0; i < 4; ++i) {
          int smaller = 0;
          for (int j = i + 1; j < 4; ++j) smaller += draw.order[j] < draw.order[i] ? 1 : 0;
          code = code * (4 - i) + smaller;
        }
        v["order"].push_back(code);
        break;
      }
      default:
        break;
    }
  }
  return v;
}

const std::vector<PerturbOp> kThatDraw = {PerturbOp::kMixup,  PerturbOp::kCutMix, PerturbOp::kSplice,
                                          PerturbOp::kNoise,  PerturbOp::kAffine, PerturbOp::kCrop,
                                          PerturbOp::kRotate, PerturbOp::kJitter};

// --- the tests of the tests ---

std::vector<double> uniform_values(std::uint64_t seed) {
  test::Random random(seed);
  std::vector<double> values;
  for (std::uint32_t i = 0; i < kDraws; ++i) values.push_back(random.uniform(0, 1));
  return values;
}

TEST(Statistics, FindASkew) {
  const std::vector<double> fair = uniform_values(1);
  EXPECT_TRUE(values_are_uniform(fair, 0, 1));
  // Beta(1.1, 1), a range that ends 3 % early, and every fifteenth draw a constant.
  std::vector<double> tilted = fair, shorter = fair, stuck = fair;
  for (std::size_t i = 0; i < fair.size(); ++i) {
    tilted[i] = std::pow(fair[i], 1 / 1.1);
    shorter[i] *= 0.97;
    if (i % 15 == 0) stuck[i] = 0.5;
  }
  EXPECT_FALSE(values_are_uniform(tilted, 0, 1));
  EXPECT_FALSE(values_are_uniform(shorter, 0, 1));
  EXPECT_FALSE(values_are_uniform(stuck, 0, 1));

  // One of eleven operations a fifth more likely than the others; modulo bias is of this kind.
  test::Random random(2);
  std::vector<int> even(11, 0), biased(11, 0);
  for (std::uint32_t i = 0; i < kDraws; ++i) {
    ++even[static_cast<std::size_t>(random.integer(0, 10))];
    ++biased[static_cast<std::size_t>(random.integer(0, 55) % 11 == 0 ? 0 : random.integer(0, 10))];
  }
  EXPECT_TRUE(counts_are_uniform(even));
  EXPECT_FALSE(counts_are_uniform(biased));

  // The classic mistake: swapping with any of the four instead of those not placed yet.
  std::vector<int> right(24, 0), wrong(24, 0);
  for (const bool naive : {false, true}) {
    for (std::uint32_t i = 0; i < kDraws; ++i) {
      std::array<int, 4> order = {0, 1, 2, 3};
      for (int k = 3; k >= (naive ? 0 : 1); --k)
        std::swap(order[static_cast<std::size_t>(k)],
                  order[static_cast<std::size_t>(random.integer(0, naive ? 3 : k))]);
      int code = 0;
      for (std::size_t a = 0; a < 4; ++a) {
        int smaller = 0;
        for (std::size_t b = a + 1; b < 4; ++b) smaller += order[b] < order[a] ? 1 : 0;
        code = code * static_cast<int>(4 - a) + smaller;
      }
      ++(naive ? wrong : right)[static_cast<std::size_t>(code)];
    }
  }
  EXPECT_TRUE(counts_are_uniform(right));
  EXPECT_FALSE(counts_are_uniform(wrong));

  const std::vector<double> other = uniform_values(7);
  EXPECT_TRUE(are_independent(fair, other));
  EXPECT_FALSE(are_independent(fair, fair));
  std::vector<double> leaning = other;  // a seventh of the other draw leaks in
  for (std::size_t i = 0; i < fair.size(); ++i) leaning[i] += fair[i] / 7;
  EXPECT_FALSE(are_independent(fair, leaning));
}

// --- operations and members ---

TEST(PerturbStatistics, OperationsAndMembersOfEveryPool) {
  const PerturbOptions pools[] = {paper_perturbation(32), official_perturbation(32), all_perturbations(32)};
  for (const PerturbOptions& pool : pools) {
    for (const int members : {2, 3, 7}) {
      std::vector<int> operations(static_cast<std::size_t>(pool.pool_size), 0),
          chosen(static_cast<std::size_t>(members), 0);
      for (std::uint32_t i = 0; i < kDraws; ++i) {
        const PerturbChoice choice =
            choose_perturbation(pool, kSeed, i * static_cast<std::uint32_t>(pool.period), members);
        const auto at = std::find(pool.pool, pool.pool + pool.pool_size, choice.op) - pool.pool;
        ASSERT_LT(at, pool.pool_size);
        ++operations[static_cast<std::size_t>(at)];
        ++chosen[static_cast<std::size_t>(choice.member)];
      }
      EXPECT_TRUE(counts_are_uniform(operations))
          << pool.pool_size << " operations, " << members << " members";
      EXPECT_TRUE(counts_are_uniform(chosen)) << pool.pool_size << " operations, " << members << " members";
    }
  }
}

TEST(PerturbStatistics, OneStepSaysNothingOfTheNext) {
  const PerturbOptions pool = all_perturbations(32);
  std::vector<int> pairs(121, 0), members(16, 0);
  for (std::uint32_t step = 0; step < kDraws; ++step) {
    const PerturbChoice now = choose_perturbation(pool, kSeed, 2 * step, 4);
    const PerturbChoice next = choose_perturbation(pool, kSeed, 2 * step + 1, 4);
    ++pairs[static_cast<std::size_t>((static_cast<int>(now.op) - 1) * 11 + static_cast<int>(next.op) - 1)];
    ++members[static_cast<std::size_t>(now.member * 4 + next.member)];
  }
  EXPECT_TRUE(counts_are_uniform(pairs));
  EXPECT_TRUE(counts_are_uniform(members));
}

// --- parameters ---

TEST(PerturbStatistics, ParametersOneByOne) {
  const double degree = std::acos(-1.0) / 180;
  struct Expected {
    PerturbOp op;
    const char* name;
    double low, high;
  };
  const Expected expected[] = {{PerturbOp::kMixup, "lambda", 0, 1},  // Beta(1, 1)
                               {PerturbOp::kNoise, "sigma", 0.05, 0.2},
                               {PerturbOp::kSplice, "split_x", 299.5, 700.5},
                               {PerturbOp::kSplice, "split_y", 299.5, 700.5},
                               {PerturbOp::kAffine, "shear", -15 * degree, 15 * degree},
                               {PerturbOp::kAffine, "scale", 0.8, 1.2},
                               {PerturbOp::kAffine, "shift_x", -0.2, 0.2},
                               {PerturbOp::kAffine, "shift_y", -0.2, 0.2},
                               {PerturbOp::kCrop, "area", 0.3, 0.7},
                               {PerturbOp::kCrop, "tilt", -std::log(4.0 / 3), std::log(4.0 / 3)},
                               {PerturbOp::kRotate, "angle", -30 * degree, 30 * degree},
                               {PerturbOp::kJitter, "brightness", 0.75, 1.25},
                               {PerturbOp::kJitter, "contrast", 0.85, 1.15},
                               {PerturbOp::kJitter, "saturation", 0.85, 1.15},
                               {PerturbOp::kJitter, "hue", -0.15, 0.15},
                               {PerturbOp::kJitter, "blur", 0.1, 1.0}};
  for (const bool per_sample : {false, true}) {
    std::map<PerturbOp, Values> drawn;
    for (const PerturbOp op : kThatDraw) drawn[op] = parameters(op, per_sample);
    for (const Expected& e : expected) {
      const std::vector<double>& values = drawn[e.op][e.name];
      EXPECT_TRUE(values_are_uniform(values, e.low, e.high)) << e.name << (per_sample ? ", per sample" : "");
      const double room = 0.005 * (e.high - e.low);  // sizes are whole pixels
      EXPECT_GE(*std::min_element(values.begin(), values.end()), e.low - room) << e.name;
      EXPECT_LE(*std::max_element(values.begin(), values.end()), e.high + room) << e.name;
    }
    for (const char* place : {"left", "top"})
      EXPECT_TRUE(values_are_uniform(drawn[PerturbOp::kCrop][place], 0, 1)) << place;
    for (const auto& [name, values] : drawn[PerturbOp::kSplice]) {
      if (!name.starts_with("offset")) continue;
      EXPECT_TRUE(values_are_uniform(values, 0, 1)) << name;
    }
    std::vector<int> orders(24, 0);
    for (const double code : drawn[PerturbOp::kJitter]["order"]) ++orders[static_cast<std::size_t>(code)];
    EXPECT_TRUE(counts_are_uniform(orders)) << "of brightness, contrast, saturation and hue";
  }
}

// A box of side s = sqrt(1 - u) of the image (so that its area is uniform), its centre uniform, what is
// outside cut off: the chance of a width of at most w, summed over sides and centres.
TEST(PerturbStatistics, BoxesOfCutMix) {
  constexpr int kSides = 4000;
  std::vector<double> chance(kSize + 1, 0.0);  // of a width of exactly w
  for (int i = 0; i < kSides; ++i) {
    const int box = static_cast<int>(std::sqrt((i + 0.5) / kSides) * kSize);
    for (int centre = 0; centre < kSize; ++centre) {
      const int from = std::max(centre - box / 2, 0), to = std::min(centre - box / 2 + box, kSize);
      chance[static_cast<std::size_t>(to - from)] += 1.0 / kSides / kSize;
    }
  }
  std::vector<double> at_most(chance.size());
  std::partial_sum(chance.begin(), chance.end(), at_most.begin());
  Values boxes = parameters(PerturbOp::kCutMix);
  for (const char* side : {"width", "height"}) {
    EXPECT_TRUE(values_fit(
        boxes[side], [&](double w) { return at_most[static_cast<std::size_t>(w)]; },
        [&](double w) { return w < 1 ? 0.0 : at_most[static_cast<std::size_t>(w) - 1]; }))
        << side;
  }
  EXPECT_FALSE(values_fit(parameters(PerturbOp::kCrop)["area"], [](double a) {
    return std::clamp(a, 0.0, 1.0);
  })) << "another distribution does not fit";
}

TEST(PerturbStatistics, ParametersOfAnOperationAreIndependent) {
  for (const PerturbOp op : kThatDraw) {
    if (op == PerturbOp::kCutMix) continue;  // one side for both: square boxes
    const Values values = parameters(op);
    for (auto a = values.begin(); a != values.end(); ++a) {
      for (auto b = std::next(a); b != values.end(); ++b)
        EXPECT_TRUE(are_independent(a->second, b->second)) << a->first << " and " << b->first;
    }
  }
  const Values boxes = parameters(PerturbOp::kCutMix);
  EXPECT_FALSE(are_independent(boxes.at("width"), boxes.at("height")));
}

// Draws of one row, member, step and seed say nothing of those of another.
TEST(PerturbStatistics, RowsMembersStepsAndSeedsAreIndependent) {
  for (const PerturbOp op : kThatDraw) {
    const Values steps = parameters(op), rows = parameters(op, true);
    const std::pair<const char*, Values> others[] = {
        {"the next step", parameters(op, false, kSeed, 1, 1)},
        {"another member", parameters(op, false, kSeed, 2)},
        {"another seed", parameters(op, false, kSeed + 1)},
        {"the seed's high half", parameters(op, false, kSeed + (1ULL << 32))}};
    for (const auto& [name, values] : steps) {
      for (const auto& [what, other] : others)
        EXPECT_TRUE(are_independent(values, other.at(name))) << name << ", " << what;
    }
    const Values next = parameters(op, true, kSeed, 1, 1);
    for (const auto& [name, values] : rows)
      EXPECT_TRUE(are_independent(values, next.at(name))) << name << ", the next row";
  }
  // One parameter for the batch unless rows are asked to differ.
  PerturbOptions options;
  for (const bool per_sample : {false, true}) {
    options.per_sample = per_sample;
    const PerturbDraw first = draw_perturb(PerturbOp::kMixup, options, 1, 0, 5, 0, 32, 32);
    const PerturbDraw second = draw_perturb(PerturbOp::kMixup, options, 1, 0, 5, 1, 32, 32);
    EXPECT_EQ(first.lambda != second.lambda, per_sample);
  }
}

// --- permutations, noise, displacement ---

// Batches of four: all orders of each of the three permutations, and two of them side by side.
TEST(PerturbStatistics, PermutationsAreUniformAndIndependent) {
  std::array<std::vector<int>, 3> orders;
  orders.fill(std::vector<int>(24, 0));
  std::array<std::vector<int>, 3> pairs;  // where image 0 goes: permutations 0 and 1, 0 and 2, 1 and 2
  pairs.fill(std::vector<int>(16, 0));
  for (std::uint32_t step = 0; step < kDraws; ++step) {
    std::array<std::array<int, 4>, 3> rank{};
    for (std::uint32_t which = 0; which < 3; ++which) {
      std::array<std::uint32_t, 4> keys{};
      for (std::uint32_t row = 0; row < 4; ++row) keys[row] = permutation_key(kSeed, step, which, row);
      int code = 0;
      for (std::size_t i = 0; i < 4; ++i) {
        int smaller = 0;
        for (std::size_t j = 0; j < 4; ++j) {
          rank[which][i] += keys[j] < keys[i] ? 1 : 0;
          smaller += j > i && keys[j] < keys[i] ? 1 : 0;
        }
        code = code * static_cast<int>(4 - i) + smaller;
      }
      ++orders[which][static_cast<std::size_t>(code)];
    }
    ++pairs[0][static_cast<std::size_t>(rank[0][0] * 4 + rank[1][0])];
    ++pairs[1][static_cast<std::size_t>(rank[0][0] * 4 + rank[2][0])];
    ++pairs[2][static_cast<std::size_t>(rank[1][0] * 4 + rank[2][0])];
  }
  for (const auto& counts : orders) EXPECT_TRUE(counts_are_uniform(counts));
  for (const auto& counts : pairs) EXPECT_TRUE(counts_are_uniform(counts));
}

double normal_cdf(double x) {
  return 0.5 * std::erfc(-x / std::sqrt(2.0));
}

TEST(PerturbStatistics, NoiseIsNormalAndIndependent) {
  std::vector<double> values, cosines, sines, next_row;
  for (std::uint32_t row = 0; row < kDraws / 8; ++row) {
    for (std::uint32_t block = 0; block < 4; ++block) {
      float four[4], below[4];
      four_normals(noise_address(kSeed, 1, 5, row), block, four);
      four_normals(noise_address(kSeed, 1, 5, row + 1), block, below);
      for (int i = 0; i < 4; ++i) values.push_back(d(four[i]));
      for (int i = 0; i < 4; i += 2) {
        cosines.push_back(d(four[i]));
        sines.push_back(d(four[i + 1]));
        next_row.push_back(d(below[i]));
      }
    }
  }
  EXPECT_TRUE(values_fit(values, normal_cdf));
  EXPECT_TRUE(are_independent(cosines, sines)) << "the two branches of Box and Muller";
  EXPECT_TRUE(are_independent(cosines, next_row));
  for (double& value : values) value *= 1.1;
  EXPECT_FALSE(values_fit(values, normal_cdf)) << "10 % too wide";
}

// What reaches the images: grey ones keep it from being cut off at black and white.
TEST(PerturbStatistics, NoiseOfTheImages) {
  PerturbRun<double> run(test::Device::kCpu, 2, 28, 16, 16);
  run.only(PerturbOp::kNoise);
  run.options.noise_low = run.options.noise_high = 0.1F;
  const Normalisation& n = kTestNormalisation;
  for (std::size_t i = 0; i < run.clean.size(); ++i) run.clean[i] = (0.5 - n.mean[i % 3]) / n.std[i % 3];
  run.reset();
  run.run();
  const test::Guarded<double>& noisy = run.batches[static_cast<std::size_t>(run.member[0])];
  std::vector<double> values;
  for (std::size_t i = 0; i < run.clean.size(); ++i)
    values.push_back((noisy[i] - run.clean[i]) * n.std[i % 3] / static_cast<double>(0.1F));
  ASSERT_GE(values.size(), kDraws);
  EXPECT_TRUE(values_fit(values, normal_cdf));
}

// P5: a displacement of alpha is two standard deviations of a smoothed, hence nearly normal, field. A ramp
// across the image tells how far a pixel came; one pixel per image, as neighbours move together.
TEST(PerturbStatistics, DisplacementsAreCentredAndAsLargeAsStated) {
  constexpr int kSide = 33;
  std::vector<double> moved;
  PerturbRun<double> run(test::Device::kCpu, 1, 100, kSide, kSide, 1);
  run.only(PerturbOp::kElastic);
  run.options.per_sample = true;
  for (std::size_t i = 0; i < run.clean.size(); ++i) run.clean[i] = static_cast<double>(i % kSide);
  for (run.step = 0; run.step < 50; ++run.step) {
    run.reset();
    run.run();
    for (std::size_t b = 0; b < 100; ++b)
      moved.push_back(run.batches[0][b * run.pixels() + (kSide / 2) * kSide + kSide / 2] - kSide / 2);
  }
  const double sigma = d(run.options.elastic_alpha) / 2;
  EXPECT_TRUE(values_fit(moved, [&](double x) { return normal_cdf(x / sigma); }));
  EXPECT_FALSE(values_fit(moved, [&](double x) { return normal_cdf(x / (1.2 * sigma)); }));
  EXPECT_FALSE(values_fit(moved, [&](double x) { return normal_cdf(x / sigma - 0.15); })) << "off centre";
}

// P9 and P10 draw nothing: they always flip.
TEST(PerturbStatistics, FlipsAlwaysFlip) {
  for (const PerturbOp op : {PerturbOp::kFlipX, PerturbOp::kFlipY}) {
    PerturbRun<double> run(test::Device::kCpu, 2, 3, 6, 6, 1);
    run.only(op);
    for (run.step = 0; run.step < 200; ++run.step) {
      run.reset();
      run.run();
      const test::Guarded<double>& out = run.batches[static_cast<std::size_t>(run.member[0])];
      ASSERT_EQ(out[1], op == PerturbOp::kFlipX ? run.at(0, 0, 4, 0) : run.at(0, 5, 1, 0)) << run.step;
    }
  }
}

}  // namespace
}  // namespace cohort::kernels
