// AFD: its golden numbers, both backward passes against differences, who steps what, and what a checkpoint
// holds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/gradcheck.h"
#include "distill/discriminator.h"
#include "distill/method_probe.h"
#include "tests/support/op_check.h"
#include "tests/support/tolerance.h"
#include "tests/support/whole_step.h"

namespace cohort::distill {
namespace {

using test::RunOptions;
using test::TestRun;
using Values = std::vector<double>;
using Settings = std::vector<std::pair<std::string, std::string>>;

ProbeOutput probe(const ProbeInput& in, const Settings& settings = {}) {
  const MethodInfo& info = find_method("afd");
  MethodOptions options(info.options);
  for (const auto& [key, value] : settings) options.set(key, value);
  return probe_method(*info.make(options), in);
}

class AfdGolden : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Precision, AfdGolden, testing::Values(true, false),
                         [](const auto& p) { return p.param ? "f64" : "f32"; });

TEST_P(AfdGolden, TheLogitPart) {
  const ProbeOutput out =
      probe({.double_precision = GetParam(),
             .rows = 2,
             .classes = 3,
             .logits = {{2.0, 1.2, -0.5, 0.9, 0.6, -0.8}, {1.0, -0.5, 1.2, -0.6, 1.4, 0.8}},
             .labels = {0, 1}});
  const double tolerance = GetParam() ? 2e-6 : 1e-5;
  EXPECT_TRUE(test::all_near(out.loss, Values{1.565109, 1.560135}, tolerance));
  EXPECT_TRUE(test::all_near(
      out.grad_logits[0], Values{-0.052499, 0.328752, -0.276253, 0.536455, -0.401618, -0.134838}, tolerance));
  EXPECT_TRUE(test::all_near(
      out.grad_logits[1], Values{-0.416468, -0.136409, 0.552877, -0.236334, -0.108926, 0.345260}, tolerance));
}

struct AfdTerms : test::OpTest {};
COHORT_INSTANTIATE_DEVICES(AfdTerms);

// D(own) = 0.4, D(other) = 0.7: L_D = 0.25, L_G = 0.36, dL_G/dD = -1.2.
TEST_P(AfdTerms, GoldenVerdicts) {
  Context ctx(options());
  test::Leaf own(ctx, {1, 1, 1, 1}, Values{0.4}), other(ctx, {1, 1, 1, 1}, Values{0.7});
  const Tensor one = test::kept(ctx, {}, Values{1}), loss = test::kept(ctx, {}, Values{2});
  ctx.begin_step();
  const Tensor deceived = least_squares(ctx, own.tensor, 1, {.weight = one, .loss = loss});
  own.download();
  EXPECT_NEAR(test::download<double>(ctx, deceived)[0], 0.36, 1e-15);
  EXPECT_NEAR(test::download<double>(ctx, loss)[0], 2.36, 1e-15);
  EXPECT_NEAR(own.gradient[0], -1.2, 1e-15);
  own.slot.written = false;
  const double real = test::download<double>(ctx, least_squares(ctx, other.tensor, 1, {.weight = one}))[0],
               fake = test::download<double>(ctx, least_squares(ctx, own.tensor, 0, {.weight = one}))[0];
  own.download();
  other.download();
  EXPECT_NEAR(real + fake, 0.25, 1e-15);
  EXPECT_NEAR(own.gradient[0], 0.8, 1e-15);
  EXPECT_NEAR(other.gradient[0], -0.6, 1e-15);
}

// Of every size of map: both ways through it against differences.
TEST_P(AfdTerms, GradientsOfTheDiscriminator) {
  test::Random random(8);
  for (const Shape& shape : {Shape{3, 4, 4, 4}, Shape{2, 3, 3, 1}, Shape{3, 2, 2, 3}, Shape{2, 1, 1, 2},
                             Shape{2, 7, 5, 2}, Shape{4, 9, 2, 5}}) {
    SCOPED_TRACE(shape.to_string());
    Context ctx(options());
    ParameterSet set;
    const Discriminator discriminator(set, shape);
    materialize_part(ctx, set, 1, 0);
    test::Leaf map(ctx, shape, random);
    // The map learns, the parameters are constants.
    set.reset_grads();
    test::check_gradients(ctx, [&] { return discriminator.judge(ctx, map.tensor, false); }, {&map});
    for (const Parameter& p : set.parameters()) EXPECT_FALSE(p.value.grad->written) << p.name;
    // The other way round.
    const Tensor one = test::kept(ctx, {}, Values{1});
    const auto value = [&] {
      ctx.begin_step();
      return least_squares(ctx, discriminator.judge(ctx, map.tensor.detached(), true), 1, {.weight = one});
    };
    value();
    ctx.backward();
    for (const Parameter& p : set.parameters()) {
      const Values gradient = download_values(ctx, p.grad), values = download_values(ctx, p.value);
      for (const std::size_t at : {std::size_t{0}, values.size() - 1}) {
        const auto moved = [&](double h) {
          Values v = values;
          v[at] += h;
          upload_values(ctx, p.value, v);
          return test::download<double>(ctx, value())[0];
        };
        const double difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        EXPECT_NEAR(gradient[at], difference, 1e-8) << p.name << " at " << at;
      }
      upload_values(ctx, p.value, values);
    }
  }
}

ProbeInput with_maps(std::vector<ProbeMap> shapes) {
  test::Random random(test::base_seed() + 3);
  ProbeInput in{.rows = 4, .classes = 5, .labels = {3, 0, 2, 4}};
  for (ProbeMap& map : shapes) {
    in.logits.push_back(random.normals<double>(20));
    map.values = random.normals<double>(static_cast<std::size_t>(4 * map.channels * map.height * map.width));
    in.features.push_back(map);
  }
  return in;
}

// Who has which parts, and that each of them learns. L_G is in the loss, L_D is not.
TEST(Afd, MapsOfOneShapeNeedNoTransferLayer) {
  const ProbeInput in = with_maps({{6, 4, 4, {}}, {6, 8, 8, {}}, {4, 4, 4, {}}});
  std::set<std::pair<int, std::string>> transfers;
  const ProbeOutput out = probe(in);
  for (const ProbeParameter& p : out.parameters) {
    if (p.name == "transfer.weight") {
      transfers.insert({p.member, p.name});
      EXPECT_EQ(p.dims, (std::vector<std::int64_t>{4, 6, 1, 1}));
    }
    if (p.name == "discriminator.0.conv.weight") {
      EXPECT_EQ(p.dims, (std::vector<std::int64_t>{2, 4, 2, 2}));
    }
    double largest = 0;
    for (const double g : p.gradient) largest = std::max(largest, std::abs(g));
    EXPECT_GT(largest, 1e-7) << p.name;
  }
  EXPECT_EQ(transfers.size(), 2U);
  EXPECT_TRUE(transfers.count({0, "transfer.weight"}) && transfers.count({1, "transfer.weight"}));
}

// The gradient of a map is that of the member's loss; the partner's map is what D learns alone.
TEST(Afd, GradientsOfMapsAreThoseOfTheLoss) {
  for (const char* summed : {"true", "false"}) {
    ProbeInput in = with_maps({{3, 4, 4, {}}, {5, 8, 8, {}}});
    const Settings settings = {{"afd.summed", summed}};
    const ProbeOutput at = probe(in, settings);
    for (const std::size_t k : {0U, 1U}) {
      Values& map = in.features[k].values;
      EXPECT_EQ(gradcheck([&] { return probe(in, settings).loss[k]; }, map.data(),
                          static_cast<std::int64_t>(map.size()), at.grad_features[k], {.max_inputs = 9}),
                "");
      map[0] += 1;
      EXPECT_EQ(probe(in, settings).loss[1 - k], at.loss[1 - k]) << "the other's loss";
      map[0] -= 1;
    }
  }
}

TEST(Afd, RefusesWhatItCannotUse) {
  ProbeInput in{.rows = 1, .classes = 2, .logits = {{0, 1}}, .labels = {0}};
  EXPECT_THROW(probe(in), Error) << "one network";
  in.logits.push_back({1, 0});
  for (const char* drops : {"0", "75,75", "75,", ",75", "150,75", "x"})
    EXPECT_THROW(probe(in, {{"afd.drops", drops}}), Error) << drops;
  for (const char* drops : {"", "75", "75,150,200"})
    EXPECT_NO_THROW(probe(in, {{"afd.drops", drops}})) << drops;
}

// One pass: targets are attached, so that the sum of all losses is what every gradient is of.
TEST(Afd, GradientsOfTheSummedPassAgreeWithDifferences) {
  test::WholeStep step({.method = "afd",
                        .settings = {{"afd.summed", "true"}, {"afd.lr", "0"}},
                        .models = {"resnet8", "wrn_16_2"}});
  for (const char* name : {"conv1.weight", "layer3.0.bn2.weight", "fc.weight"})
    step.expect_gradient(step.run.parameters(0), name);
  ASSERT_NE(step.run.cohort->second_update(), nullptr);
  EXPECT_EQ(step.run.cohort->second_update()->gradient(0).data, step.run.parameters(0).grads().data);
}

// Two passes: what SGD and Adam get are parts of one gradient, and the adversarial part is Adam's alone.
TEST(Afd, GradientsOfTheTwoPassesAddUpToDifferences) {
  test::WholeStep step({.method = "afd",
                        .settings = {{"afd.lambda", "0"}, {"afd.lr", "0"}},
                        .models = {"resnet8", "wrn_16_2"}});
  const ParameterSet& set = step.run.parameters(0);
  step.expect_gradient(set, "fc.weight");
  step.loss();
  Context& ctx = step.run.context();
  const Tensor& second = step.run.cohort->second_update()->gradient(0);
  const Values of_sgd = download_values(ctx, set.grads()), of_adam = download_values(ctx, second);
  std::int64_t classifier = 0;
  for (const Parameter& p : set.parameters()) {
    if (p.name != "fc.weight" && p.name != "fc.bias") continue;
    classifier += (p.shape.count() + 15) / 16 * 16;
  }
  EXPECT_EQ(second.count(), set.values().count() - classifier) << "all but the classifier";
  const Values values = download_values(ctx, set.values());
  for (const std::size_t at : {std::size_t{3}, of_adam.size() / 2, of_adam.size() - 40}) {
    const auto moved = [&](double h) {
      Values v = values;
      v[at] += h;
      upload_values(ctx, set.values(), v);
      return step.loss();
    };
    const double difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
    EXPECT_NEAR(of_sgd[at] + of_adam[at], difference, 1e-6) << at;
    EXPECT_GT(std::abs(of_adam[at]), 1e-9) << at;
  }
}

// With SGD at rest Adam moves a network by about its rate, but not the classifier; with Adam at rest,
// nothing.
TEST(Afd, EveryOptimiserStepsWhatIsIts) {
  const auto moved = [](const Settings& settings, double rate) {
    TestRun run({.method = "afd", .settings = settings, .learning_rate = rate});
    run.recorder.stop_at = 1;
    const Values before = run.weights(0),
                 part_before =
                     download_values(run.context(), run.cohort->method().adam_parameters(0)[0]->values());
    run.trainer->run();
    const Values after = run.weights(0),
                 part = download_values(run.context(), run.cohort->method().adam_parameters(0)[0]->values());
    double backbone = 0, classifier = 0, parts = 0;
    const std::size_t end = before.size() - 5 * 64 - 16;  // fc.weight, fc.bias
    for (std::size_t i = 0; i < before.size(); ++i)
      (i < end ? backbone : classifier) =
          std::max(i < end ? backbone : classifier, std::abs(after[i] - before[i]));
    for (std::size_t i = 0; i < part.size(); ++i) parts = std::max(parts, std::abs(part[i] - part_before[i]));
    return Values{backbone, classifier, parts};
  };
  const Settings fast = {{"afd.lr", "1e-3"}, {"afd.wd", "0"}};
  const Values by_adam = moved(fast, 0);
  EXPECT_NEAR(by_adam[0], 1e-3, 1e-5);
  EXPECT_EQ(by_adam[1], 0);
  EXPECT_NEAR(by_adam[2], 1e-3, 1e-5);
  const Values summed = moved({{"afd.lr", "1e-3"}, {"afd.wd", "0"}, {"afd.summed", "true"}}, 0);
  EXPECT_NEAR(summed[1], 1e-3, 1e-5) << "the classifier as well";
  const Values by_sgd = moved({{"afd.lr", "0"}}, 0.05);
  EXPECT_GT(by_sgd[0], 1e-3);
  EXPECT_GT(by_sgd[1], 1e-3);
  EXPECT_EQ(by_sgd[2], 0) << "SGD leaves transfer layers and discriminators alone";
}

// Without Adam AFD's networks are those of DML at its temperature, bit by bit.
TEST(Afd, WithoutAdamItIsDml) {
  TestRun afd({.method = "afd", .settings = {{"afd.lr", "0"}}});
  afd.trainer->run();
  TestRun dml({.method = "dml", .settings = {{"dml.T", "3"}}});
  dml.trainer->run();
  for (const std::size_t k : {0U, 1U}) EXPECT_EQ(afd.weights(k), dml.weights(k)) << k;
}

// 1 in the first two epochs, a tenth from the third on: what Adam alone has moved.
TEST(Afd, AdamsRateFallsAtItsEpochs) {
  TestRun run({.method = "afd",
               .settings = {{"afd.lr", "1e-3"}, {"afd.wd", "0"}, {"afd.drops", "2"}},
               .epochs = 4,
               .learning_rate = 0,
               .batch_size = 128});
  Values before = run.weights(0), steps;
  for (int epoch = 1; epoch <= 4; ++epoch) {
    run.recorder.stop_at = epoch;
    run.trainer->run();
    const Values after = run.weights(0);
    double largest = 0;
    for (std::size_t i = 0; i < after.size(); ++i)
      largest = std::max(largest, std::abs(after[i] - before[i]));
    steps.push_back(largest);
    before = after;
  }
  EXPECT_GT(steps[1], 5e-4);
  EXPECT_LT(steps[2], 1.5e-4);
  EXPECT_GT(steps[2], 5e-5);
}

// A member that is not finite is not stepped by Adam either, nor is its counter.
TEST(Afd, ASickMemberIsNotSteppedByAdam) {
  TestRun run({.method = "afd", .settings = {{"afd.lambda", "0"}}, .nan = NanPolicy::kIgnore});
  ParameterSet& part = *run.cohort->method().adam_parameters(1)[0];
  Values sick = download_values(run.context(), part.values());
  sick[0] = NAN;
  upload_values(run.context(), part.values(), sick);
  run.recorder.stop_at = 2;
  run.trainer->run();
  const auto counters = [&](int member) {
    Values all;
    for (const auto& [name, tensor] : run.cohort->second_update()->state(member))
      if (name.find("steps") == 0) all.push_back(download_values(run.context(), tensor)[0]);
    return all;
  };
  EXPECT_EQ(counters(0), (Values{2, 2}));
  EXPECT_EQ(counters(1), (Values{0, 0}));
  for (const double w : run.weights(1)) ASSERT_TRUE(std::isfinite(w));
  EXPECT_TRUE(run.recorder.steps[1].members[0].stepped);
  EXPECT_FALSE(run.recorder.steps[1].members[1].stepped);
}

// ADM's adapters are SGD's, and both backward passes are there.
TEST(Afd, TrainsAndResumesWithAdm) {
  const RunOptions options{.method = "afd", .add = "adm", .models = {"resnet8", "wrn_16_2"}};
  TestRun whole(options);
  whole.trainer->run();
  ASSERT_NE(whole.cohort->second_update(), nullptr);
  EXPECT_EQ(whole.cohort->method().extra_parameters(1).size(), 1U) << "the adapters";
  EXPECT_EQ(whole.cohort->method().adam_parameters(1).size(), 1U);
  for (const StepRecord& step : whole.recorder.steps) EXPECT_TRUE(step.members[0].stepped);
  TestRun first(options);
  first.recorder.stop_at = 4;
  first.trainer->run();
  TestRun second(options);
  second.trainer->restore(first.trainer->state());
  second.trainer->run();
  const auto a = whole.trainer->state(), b = second.trainer->state();
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].bytes == b[i].bytes) << a[i].name;
}

// A checkpoint of a run without Adam has not what this one needs.
TEST(Afd, RefusesTheStateOfAnotherMethod) {
  TestRun afd({.method = "afd"}), dml({.method = "dml"});
  EXPECT_THROW(afd.trainer->restore(dml.trainer->state()), Error);
  EXPECT_THROW(dml.trainer->restore(afd.trainer->state()), Error);
}

}  // namespace
}  // namespace cohort::distill
