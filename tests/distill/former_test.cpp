// Networks as they were at the end of the epoch before: their answers against the same weights in a network
// of their own, checkpoints, and ADM's temporal labels made of them.
#include <gtest/gtest.h>

#include <cmath>

#include "core/dispatch.h"
#include "models/registry.h"
#include "tests/support/tiny_training.h"

namespace cohort::distill {
namespace {

using test::RunOptions;
using test::TestRun;
using Values = std::vector<double>;

// What a step's first member was asked, and what its former network said.
struct Heard {
  Values indices, logits;
};

// A method that writes down what former networks say.
class Listening final : public Method {
 public:
  Listening(std::unique_ptr<Method> base, std::vector<Heard>& heard)
      : base_(std::move(base)), heard_(heard) {}
  std::string formula(int members) const override { return base_->formula(members); }
  bool wants_former(int member) const override { return member == 0; }
  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override { base_->setup(ctx, probe); }
  void losses(Context& ctx, StepView& view) override {
    EXPECT_TRUE(view.former.at(1).empty()) << "nobody asked";
    heard_.push_back({download_values(ctx, view.indices), download_values(ctx, view.former.at(0))});
    base_->losses(ctx, view);
  }

 private:
  std::unique_ptr<Method> base_;
  std::vector<Heard>& heard_;
};

std::span<const std::byte> file(const std::vector<NamedBytes>& state, const std::string& name) {
  for (const NamedBytes& f : state)
    if (f.name == name) return f.bytes;
  ADD_FAILURE() << name;
  return {};
}

// The images as the network of these weights, in evaluation mode and by itself, sees them.
Values answers_of(std::span<const std::byte> weights, const ImageSet& set, const Values& indices) {
  Context ctx({.num_threads = 1, .num_branches = 1});
  const auto network =
      models::make_network("resnet8", set.num_classes, {set.channels, set.height, set.width});
  network->materialize(ctx, 1, 0);
  load_weights(ctx, *network, weights, "of an epoch ago");
  const std::int64_t pixels = 8 * 8 * 3;
  Values x;
  for (const double index : indices) {
    for (std::int64_t p = 0; p < pixels; ++p)
      x.push_back(
          (set.images[static_cast<std::size_t>(static_cast<std::int64_t>(index) * pixels + p)] / 255.0 -
           0.5) /
          0.25);
  }
  ctx.begin_step();
  ctx.set_recording(false);
  const Tensor batch = ctx.empty({static_cast<std::int64_t>(indices.size()), 8, 8, 3}, DType::f32);
  upload_values(ctx, batch, x);
  return download_values(ctx, network->forward(ctx, batch, {.training = false}).logits);
}

TEST(Former, AnswersAreThoseOfTheWeightsAtTheEndOfTheEpochBefore) {
  std::vector<Heard> heard;
  RunOptions options{.epochs = 3, .augment = false};
  options.wrap = [&](std::unique_ptr<Method> base) {
    return std::make_unique<Listening>(std::move(base), heard);
  };
  TestRun run(options);
  const ImageSet set = test::patterns(options.images, 5, 3, 0);
  const std::int64_t steps = run.trainer->steps_per_epoch();
  ASSERT_EQ(steps, 3);
  for (int epoch = 1; epoch < 3; ++epoch) {
    run.recorder.stop_at = epoch * steps;
    run.trainer->run();
    const std::vector<NamedBytes> state = run.trainer->state();
    heard.clear();
    run.recorder.stop_at = (epoch + 1) * steps;
    TestRun on(options);  // from the border on
    on.recorder.stop_at = steps;
    on.trainer->restore(state);
    on.trainer->run();
    ASSERT_EQ(heard.size(), 3U);
    for (const Heard& step : heard) {
      const Values expected = answers_of(file(state, "a.safetensors"), set, step.indices);
      ASSERT_EQ(step.logits.size(), expected.size());
      for (std::size_t i = 0; i < expected.size(); ++i)
        EXPECT_NEAR(step.logits[i], expected[i], 1e-4 * (1 + std::abs(expected[i]))) << epoch << " " << i;
    }
  }
}

RunOptions frozen_run(int epochs, const std::string& first, const std::string& last) {
  return {.method = "adm",
          .settings = {{"adm.beta", "1"},
                       {"adm.di_form", "kd"},
                       {"adm.delta_first", first},
                       {"adm.delta_last", last},
                       {"adm.q", "frozen"}},
          .epochs = epochs,
          .images = 60};
}

class FormerResume : public testing::TestWithParam<Precision> {};
INSTANTIATE_TEST_SUITE_P(Precisions, FormerResume, testing::Values(Precision::kF32, Precision::kBF16),
                         [](const auto& p) { return p.param == Precision::kF32 ? "f32" : "bf16"; });

// Within epochs and between them (two steps each).
TEST_P(FormerResume, ARunGoesOnToTheSameBits) {
  RunOptions options = frozen_run(3, "0.2", "0.6");
  options.precision = GetParam();
  TestRun whole(options);
  ASSERT_EQ(whole.trainer->steps_per_epoch(), 2);
  whole.trainer->run();
  for (const std::int64_t stop : {1, 2, 3, 4, 5}) {
    TestRun first(options), second(options);
    first.recorder.stop_at = stop;
    first.trainer->run();
    second.trainer->restore(first.trainer->state());
    second.trainer->run();
    const std::vector<NamedBytes> a = whole.trainer->state(), b = second.trainer->state();
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i)
      EXPECT_TRUE(a[i].bytes == b[i].bytes) << a[i].name << " " << stop;
  }
}

// In the first epoch there is no former teacher; later its share is that of the epoch.
TEST(Former, TheShareOfItsAnswersFollowsTheEpochs) {
  const auto losses = [](const RunOptions& options) {
    TestRun run(options);
    run.trainer->run();
    Values values;
    for (const StepRecord& step : run.recorder.steps) values.push_back(step.members[0].loss);
    return values;
  };
  const auto head = [](Values values, std::size_t steps) {
    values.resize(steps);
    return values;
  };
  const Values labels = losses(frozen_run(3, "0", "0")), falling = losses(frozen_run(3, "0.9", "0"));
  EXPECT_EQ(head(falling, 2), head(labels, 2)) << "nobody to ask";
  EXPECT_NE(falling[2], labels[2]) << "d = 0.45";
  EXPECT_EQ(losses(frozen_run(2, "0.9", "0")), head(losses(frozen_run(2, "0", "0")), 4))
      << "the last epoch's d is 0";
  RunOptions table = frozen_run(3, "0.9", "0");
  table.settings.back().second = "table";
  const Values stored = losses(table);
  EXPECT_EQ(head(stored, 2), head(falling, 2)) << "neither of them has answers";
  EXPECT_NE(stored[2], falling[2]) << "said then of other views, in training mode";
}

TEST(Former, WhereNetworksTakeTurnsAndWhereTheTeacherPauses) {
  RunOptions options = frozen_run(2, "0.5", "0.5");
  options.settings.emplace_back("dml.update", "in-turn");
  TestRun turns(options);
  turns.trainer->run();
  const RunOptions paused{.method = "switokd", .wrap = [](std::unique_ptr<Method> base) {
                            const AdditionInfo& adm = find_addition("adm");
                            MethodOptions of_adm(adm.options);
                            of_adm.set("adm.di_form", "kd");
                            of_adm.set("adm.q", "frozen");
                            return adm.add(std::move(base), of_adm);
                          }};
  TestRun pauses(paused);
  pauses.trainer->run();
  for (const TestRun* run : {&turns, &pauses}) {
    ASSERT_FALSE(run->recorder.steps.empty());
    for (const StepRecord& step : run->recorder.steps) EXPECT_TRUE(std::isfinite(step.members[0].feature));
  }
}

// The method takes part in what these networks answer: a copy of their weights says something else.
TEST(Former, NetworksThatDoNotAnswerAloneAreRefused) {
  const auto refused = [](const std::string& method, const std::string& teachers) {
    RunOptions options{.method = method};
    options.wrap = [&](std::unique_ptr<Method> base) {
      const AdditionInfo& adm = find_addition("adm");
      MethodOptions of_adm(adm.options);
      of_adm.set("adm.di_form", "kd");
      of_adm.set("adm.q", "frozen");
      of_adm.set("adm.teachers", teachers);
      return adm.add(std::move(base), of_adm);
    };
    try {
      TestRun run(options);
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kUsage;
    }
    return false;
  };
  EXPECT_TRUE(refused("afid", "0"));
  EXPECT_TRUE(refused("norm", "1"));
  EXPECT_FALSE(refused("kdcl-minlogit", "0"));
}

}  // namespace
}  // namespace cohort::distill
