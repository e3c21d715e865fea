// What is drawn: members, operations, parameters, permutations, targets.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "kernels/perturb.h"
#include "tests/kernels/perturb_fixture.h"
#include "tests/support/statistics.h"
#include "tests/support/tolerance.h"

namespace cohort::kernels {
namespace {

class PerturbPlan : public test::DeviceTest {};
COHORT_INSTANTIATE_DEVICES(PerturbPlan);

void expect_uniform(const std::vector<int>& counts) {
  EXPECT_TRUE(test::counts_are_uniform(counts));
}

void expect_uniform(const std::vector<double>& values, double low, double high) {
  EXPECT_TRUE(test::values_are_uniform(values, low, high));
  EXPECT_GE(*std::min_element(values.begin(), values.end()), low - 1e-6);
  EXPECT_LE(*std::max_element(values.begin(), values.end()), high + 1e-6);
}

TEST(PerturbDraws, MembersAndOperationsAreUniformAndIndependent) {
  const PerturbOptions options = all_perturbations(32);
  std::vector<int> counts(11 * 4, 0);
  for (std::uint32_t step = 0; step < 44'000; ++step) {
    const PerturbChoice choice = choose_perturbation(options, 5, step, 4);
    ASSERT_GE(choice.member, 0);
    ASSERT_LT(choice.member, 4);
    ++counts[static_cast<std::size_t>((static_cast<int>(choice.op) - 1) * 4 + choice.member)];
  }
  expect_uniform(counts);
}

TEST(PerturbDraws, Pools) {
  auto ops_of = [](const PerturbOptions& options) {
    std::set<int> ops;
    for (std::uint32_t step = 0; step < 2000; ++step) {
      const PerturbChoice choice = choose_perturbation(options, 1, step, 2);
      EXPECT_EQ(choice.member >= 0, step % static_cast<std::uint32_t>(options.period) == 0);
      EXPECT_EQ(choice.member >= 0, choice.op != PerturbOp::kNone);
      if (choice.member >= 0) ops.insert(static_cast<int>(choice.op));
    }
    return ops;
  };
  EXPECT_EQ(ops_of(paper_perturbation(32)), (std::set<int>{1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(ops_of(official_perturbation(32)), (std::set<int>{1, 4, 8, 9, 10, 11}));
  EXPECT_EQ(ops_of(all_perturbations(32)), (std::set<int>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  PerturbOptions custom;
  custom.pool[0] = PerturbOp::kFlipY;
  custom.pool_size = 1;
  custom.period = 3;
  EXPECT_EQ(ops_of(custom), (std::set<int>{10}));
  custom.pool_size = 0;
  EXPECT_TRUE(choose_perturbation(custom, 1, 0, 2).member < 0);
}

TEST(PerturbDraws, InfoTableAgreesWithTheFlags) {
  for (int i = 0; i < kNumPerturbOps; ++i) {
    EXPECT_EQ(static_cast<int>(kPerturbInfos[i].op), i + 1);
    EXPECT_EQ(is_geometric(kPerturbInfos[i].op), kPerturbInfos[i].geometric) << kPerturbInfos[i].name;
    EXPECT_EQ(mixes_labels(kPerturbInfos[i].op), kPerturbInfos[i].mixes_labels) << kPerturbInfos[i].name;
  }
  EXPECT_FALSE(is_geometric(PerturbOp::kNone) || mixes_labels(PerturbOp::kNone));
}

TEST(PerturbDraws, ParametersHaveTheStatedDistributions) {
  const PerturbOptions o = paper_perturbation(32);
  std::map<std::string, std::vector<double>> values;
  std::vector<int> crop_left(100, 0), orders(24, 0);
  for (std::uint32_t step = 0; step < 20'000; ++step) {
    auto draw = [&](PerturbOp op, int size = 32) { return draw_perturb(op, o, 3, 1, step, 0, size, size); };
    values["lambda"].push_back(static_cast<double>(draw(PerturbOp::kMixup).lambda));
    values["sigma"].push_back(static_cast<double>(draw(PerturbOp::kNoise).sigma));
    const PerturbDraw rotate = draw(PerturbOp::kRotate);
    values["angle"].push_back(
        std::atan2(static_cast<double>(rotate.matrix[3]), static_cast<double>(rotate.matrix[0])) * 180.0 /
        std::acos(-1.0));
    const PerturbDraw affine = draw(PerturbOp::kAffine);
    values["scale"].push_back(1.0 / static_cast<double>(affine.matrix[0]));
    values["shear"].push_back(std::atan(static_cast<double>(affine.matrix[1] / affine.matrix[0])) * 180.0 /
                              std::acos(-1.0));
    const double inverse = static_cast<double>(affine.matrix[0]);
    values["shift_y"].push_back((15.5 - static_cast<double>(affine.matrix[5])) / inverse - 15.5);
    const PerturbDraw crop = draw(PerturbOp::kCrop, 1000);
    const double w = crop.x1 - crop.x0, h = crop.y1 - crop.y0;
    values["area"].push_back(w * h / 1e6);
    values["aspect"].push_back(std::log(w / h));
    if (crop.x1 - crop.x0 < 1000)
      ++crop_left[static_cast<std::size_t>(crop.x0 * 100 / (1001 - (crop.x1 - crop.x0)))];
    const PerturbDraw splice = draw(PerturbOp::kSplice, 1000);
    values["split"].push_back(splice.x0 / 1000.0);
    const PerturbDraw jitter = draw(PerturbOp::kJitter);
    values["brightness"].push_back(static_cast<double>(jitter.factor[0]));
    values["contrast"].push_back(static_cast<double>(jitter.factor[1]));
    values["saturation"].push_back(static_cast<double>(jitter.factor[2]));
    values["hue"].push_back(static_cast<double>(jitter.factor[3]));
    values["blur"].push_back(static_cast<double>(jitter.sigma));
    int code = 0;
    for (int i = 0; i < 4; ++i) {
      int smaller = 0;
      for (int j = i + 1; j < 4; ++j) smaller += jitter.order[j] < jitter.order[i];
      code = code * (4 - i) + smaller;
    }
    ++orders[static_cast<std::size_t>(code)];
    const PerturbDraw cut = draw(PerturbOp::kCutMix, 1000);
    values["cut_centre"].push_back(cut.x0 > 0 && cut.x1 < 1000 ? 1.0 : 0.0);
    ASSERT_LE(cut.x0, cut.x1);
    ASSERT_LE(cut.y0, cut.y1);
  }
  const std::map<std::string, std::pair<double, double>> ranges{
      {"lambda", {0, 1}},         {"sigma", {0.05, 0.2}},       {"angle", {-30, 30}},
      {"scale", {0.8, 1.2}},      {"shear", {-15, 15}},         {"shift_y", {-6.4, 6.4}},
      {"area", {0.2985, 0.7015}}, {"split", {0.299, 0.701}},    {"brightness", {0.75, 1.25}},
      {"contrast", {0.85, 1.15}}, {"saturation", {0.85, 1.15}}, {"hue", {-0.15, 0.15}},
      {"blur", {0.1, 1.0}},       {"aspect", {-0.2905, 0.2905}}};
  for (const auto& [name, range] : ranges) {
    SCOPED_TRACE(name);
    expect_uniform(values[name], range.first, range.second);
  }
  expect_uniform(crop_left);
  expect_uniform(orders);
}

// E[box area / image] of CutMix before clipping is 1/2; clipping with a uniform centre leaves, per axis with
// box side s, s - s^2/4, squared and averaged over s = sqrt(1 - u): E[(s - s^2/4)^2] = 1/2 - 1/5 + 1/48.
TEST(PerturbDraws, CutMixBoxesHaveTheExpectedArea) {
  const PerturbOptions options;
  double sum = 0.0;
  constexpr int kDraws = 40'000;
  for (std::uint32_t step = 0; step < kDraws; ++step) {
    const PerturbDraw d = draw_perturb(PerturbOp::kCutMix, options, 8, 0, step, 0, 1000, 1000);
    sum += (d.x1 - d.x0) * 1e-6 * (d.y1 - d.y0);
  }
  EXPECT_NEAR(sum / kDraws, 0.5 - 0.2 + 1.0 / 48.0, 0.007);
}

TEST_P(PerturbPlan, NamesTheMemberWhoseMapsCannotBeCompared) {
  PerturbRun<float> run(GetParam(), 3, 4, 8, 8);
  run.options = all_perturbations(32);
  run.options.period = 2;
  for (run.step = 0; run.step < 60; ++run.step) {
    run.run();
    const bool geometric = is_geometric(static_cast<PerturbOp>(run.operation[0]));
    EXPECT_EQ(run.moved_member[0], geometric ? run.member[0] : -1);
  }
}

TEST(PerturbDraws, PermutationsAreUniform) {
  PerturbRun<float> run(test::Device::kCpu, 2, 4, 2, 2);
  std::vector<int> counts(24, 0), joint(16, 0);
  for (run.step = 0; run.step < 12'000; ++run.step) {
    run.run();
    for (int k = 0; k < 3; ++k) {
      int code = 0;
      std::set<std::int64_t> seen;
      for (int i = 0; i < 4; ++i) {
        int smaller = 0;
        for (int j = i + 1; j < 4; ++j) smaller += run.partner(k, j) < run.partner(k, i);
        code = code * (4 - i) + smaller;
        seen.insert(run.partner(k, i));
      }
      ASSERT_EQ(seen, (std::set<std::int64_t>{0, 1, 2, 3}));
      if (k == 1) ++counts[static_cast<std::size_t>(code)];
    }
    ++joint[static_cast<std::size_t>(run.partner(0, 0) * 4 + run.partner(2, 0))];
  }
  expect_uniform(counts);
  expect_uniform(joint);
}

// Image b is the constant b, so that pixels tell where they came from: label weights are the shares of the
// pixels.
TEST_P(PerturbPlan, LabelWeightsMatchTheImages) {
  for (const PerturbOp op : {PerturbOp::kMixup, PerturbOp::kCutMix, PerturbOp::kSplice}) {
    for (const bool per_sample : {false, true}) {
      PerturbRun<double> run(GetParam(), 2, 8, 32, 32);
      run.only(op);
      run.options.per_sample = per_sample;
      for (std::size_t i = 0; i < run.clean.size(); ++i) run.clean[i] = static_cast<double>(i / run.pixels());
      for (run.step = 0; run.step < 6; ++run.step) {
        run.reset();
        run.run();
        const test::Guarded<double>& out = run.batches[static_cast<std::size_t>(run.member[0])];
        for (std::size_t b = 0; b < 8; ++b) {
          double total = 0.0, expected_mean = 0.0;
          for (std::size_t k = 0; k < 4; ++k) {
            const auto from = k == 0 ? static_cast<std::int64_t>(b)
                                     : run.partner(static_cast<int>(k) - 1, static_cast<std::int64_t>(b));
            const double weight = static_cast<double>(run.weights[4 * b + k]);
            EXPECT_GE(weight, 0.0);
            EXPECT_EQ(run.mixed_labels[4 * b + k], run.labels[static_cast<std::size_t>(from)]);
            total += weight;
            expected_mean += weight * static_cast<double>(from);
            if (op == PerturbOp::kMixup) continue;
            double share = 0.0, weight_of_image = 0.0;
            for (std::size_t i = 0; i < run.pixels(); ++i) {
              share += out[b * run.pixels() + i] == static_cast<double>(from);
            }
            for (std::size_t j = 0; j < 4; ++j) {
              const auto other = j == 0 ? static_cast<std::int64_t>(b)
                                        : run.partner(static_cast<int>(j) - 1, static_cast<std::int64_t>(b));
              if (other == from) weight_of_image += static_cast<double>(run.weights[4 * b + j]);
            }
            if (weight == 0.0) continue;
            EXPECT_NEAR(share / static_cast<double>(run.pixels()), weight_of_image, 1e-6);
          }
          EXPECT_NEAR(total, 1.0, 1e-6);
          const double* const row = out.data() + b * run.pixels();
          EXPECT_NEAR(std::accumulate(row, row + run.pixels(), 0.0) / static_cast<double>(run.pixels()),
                      expected_mean, 1e-5);
        }
      }
    }
  }
}

TEST_P(PerturbPlan, TargetsArePlainWhereNothingIsMixed) {
  PerturbRun<float> run(GetParam(), 3, 5, 8, 8);
  for (const PerturbOp op : {PerturbOp::kNoise, PerturbOp::kFlipX, PerturbOp::kElastic}) {
    run.only(op);
    run.run();
    for (std::size_t b = 0; b < 5; ++b) {
      EXPECT_EQ(run.mixed_labels[4 * b], run.labels[b]);
      const float expected[4] = {1, 0, 0, 0};
      EXPECT_EQ(0, std::memcmp(&run.weights[4 * b], expected, sizeof expected));
    }
  }
  run.only(PerturbOp::kMixup);
  run.options.period = 2;  // step 3 is not perturbed
  run.reset();
  run.run();
  EXPECT_EQ(run.member[0], -1);
  EXPECT_EQ(run.operation[0], 0);
  EXPECT_EQ(run.weights[0], 1.0F);
  for (const auto& batch : run.batches) EXPECT_EQ(batch.values(), run.clean);
}

TEST_P(PerturbPlan, DependsOnSeedAndStepOnly) {
  auto sequence = [this](std::uint64_t seed, std::int32_t first) {
    std::vector<float> all;
    PerturbRun<float> run(GetParam(), 3, 6, 8, 8);
    run.options = all_perturbations(32);
    run.seed = seed;
    for (run.step = first; run.step < 24; ++run.step) {
      run.reset();
      run.run();
      all.push_back(static_cast<float>(run.member[0]));
      all.push_back(static_cast<float>(run.operation[0]));
      const std::vector<float> weights = run.weights.values();
      const std::vector<float> pixels = run.batches[static_cast<std::size_t>(run.member[0])].values();
      all.insert(all.end(), weights.begin(), weights.end());
      all.insert(all.end(), pixels.begin(), pixels.end());
    }
    return all;
  };
  const std::vector<float> whole = sequence(1, 0);
  const std::vector<float> resumed = sequence(1, 10);
  EXPECT_TRUE(test::same_bits(whole, sequence(1, 0)));
  EXPECT_TRUE(std::equal(resumed.rbegin(), resumed.rend(), whole.rbegin()));
  EXPECT_NE(whole, sequence(2, 0));
}

// Every word that a plan writes, also for more rows than a block has threads and with a short last batch.
TEST_P(PerturbPlan, HasTheBitsOfTheCpu) {
  for (const std::int64_t batch : {1, 7, 20, 257}) {
    for (const bool per_sample : {false, true}) {
      const std::int32_t steps = batch < 100 ? 12 : per_sample ? 0 : 2;  // a block per row: minutes emulated
      for (std::int32_t step = 0; step < steps; ++step) {
        SCOPED_TRACE(testing::Message() << "batch " << batch << " step " << step);
        PerturbRun<float> expected(test::Device::kCpu, 3, batch, 8, 8, 1),
            actual(GetParam(), 3, batch, 8, 8, 1);
        for (PerturbRun<float>* run : {&expected, &actual}) {
          run->options = all_perturbations(32);
          run->options.period = 3;
          run->options.per_sample = per_sample;
          run->step = step;
          run->valid = static_cast<std::int32_t>(step % 2 == 0 ? batch : batch * 2 / 3);
          run->run();
        }
        EXPECT_EQ(actual.member[0], expected.member[0]);
        EXPECT_EQ(actual.operation[0], expected.operation[0]);
        EXPECT_EQ(actual.moved_member[0], expected.moved_member[0]);
        EXPECT_EQ(actual.permutations.values(), expected.permutations.values());
        EXPECT_EQ(actual.mixed_labels.values(), expected.mixed_labels.values());
        EXPECT_TRUE(test::same_bits(actual.weights.values(), expected.weights.values()));
      }
    }
  }
}

}  // namespace
}  // namespace cohort::kernels
