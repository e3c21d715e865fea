// A run may stop after any step and go on with any number of threads: the weights, the optimiser and every
// record are those of the run that never stopped, bit for bit. 60 stops, over epoch ends, short batches and
// evaluations.
#include <gtest/gtest.h>

#include <numeric>

#include "data/registry.h"
#include "distill/trainer.h"

namespace cohort::distill {
namespace {

constexpr int kStops = 60;
constexpr int kBatch = 8;
constexpr int kEpochs = 8;

struct Recorder : TrainerObserver {
  std::vector<StepRecord> steps;
  std::vector<EpochRecord> epochs;
  std::int64_t stop_at = -1;
  void on_step(const StepRecord& r) override { steps.push_back(r); }
  void on_epoch(const EpochRecord& r) override { epochs.push_back(r); }
  StopRequest poll() override {
    return !steps.empty() && steps.back().step == stop_at ? StopRequest::kTerminate : StopRequest::kNone;
  }
};

const data::Dataset& shapes() {
  static const data::Dataset set = [] {
    ThreadPool pool(1);
    data::DatasetOptions options;
    options.train_size = 70;  // 10 of them held out: 8 steps an epoch, the last of 4 images
    options.test_size = 12;
    options.image_size = 8;
    options.num_classes = 4;
    return data::load_dataset(CpuStream{&pool}, "shapes", options);
  }();
  return set;
}

struct TestRun {
  Recorder recorder;
  Context ctx;
  std::unique_ptr<Cohort> cohort;
  std::unique_ptr<Trainer> trainer;

  explicit TestRun(int threads) : ctx({.num_threads = threads, .num_branches = 2, .seed = 11}) {
    const MethodInfo& info = find_method("competitive");  // draws, feature terms, adapters: the most state
    cohort =
        std::make_unique<Cohort>(ctx, std::vector<MemberSpec>{{"a", "resnet8", 0.05}, {"b", "resnet8", 0.05}},
                                 info.make(MethodOptions(info.options)), shapes().train, CohortOptions{});
    TrainerData data{&shapes().train, {}, {}, &shapes().test};
    for (std::int32_t i = 0; i < 70; ++i)
      (i % 7 == 0 ? data.held_out_indices : data.train_indices).push_back(i);
    trainer = std::make_unique<Trainer>(
        ctx, *cohort, data, TrainerOptions{.epochs = kEpochs, .batch_size = kBatch, .schedule = {}},
        recorder);
  }
};

void expect_equal(const StepRecord& a, const StepRecord& b) {
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.epoch, b.epoch);
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.teacher, b.teacher);
  EXPECT_EQ(a.perturbed, b.perturbed);
  EXPECT_EQ(a.operation, b.operation);
  ASSERT_EQ(a.members.size(), b.members.size());
  for (std::size_t k = 0; k < a.members.size(); ++k) {
    const MemberStep &x = a.members[k], &y = b.members[k];
    EXPECT_EQ(x.loss, y.loss);
    EXPECT_EQ(x.ce, y.ce);
    EXPECT_EQ(x.kl, y.kl);
    EXPECT_EQ(x.feature, y.feature);
    EXPECT_EQ(x.learning_rate, y.learning_rate);
    EXPECT_EQ(x.correct_top1, y.correct_top1);
    EXPECT_EQ(x.stepped, y.stepped);
  }
}

void expect_equal(const std::optional<CohortScores>& a, const std::optional<CohortScores>& b) {
  ASSERT_EQ(a.has_value(), b.has_value());
  if (!a) return;
  for (std::size_t k = 0; k < a->members.size(); ++k) {
    EXPECT_EQ(a->members[k].loss, b->members[k].loss);
    EXPECT_EQ(a->members[k].top1, b->members[k].top1);
  }
  EXPECT_EQ(a->ensemble.loss, b->ensemble.loss);
  EXPECT_EQ(a->agreement, b->agreement);
}

void expect_equal(const EpochRecord& a, const EpochRecord& b) {
  EXPECT_EQ(a.epoch, b.epoch);
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.train_loss, b.train_loss);
  EXPECT_EQ(a.train_top1, b.train_top1);
  EXPECT_EQ(a.learning_rates, b.learning_rates);
  EXPECT_EQ(a.new_best, b.new_best);
  expect_equal(a.held_out, b.held_out);
  expect_equal(a.test, b.test);
}

void expect_equal_states(const std::vector<NamedBytes>& a, const std::vector<NamedBytes>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].name, b[i].name);
    EXPECT_TRUE(a[i].bytes == b[i].bytes) << a[i].name;
  }
}

// The whole run keeps its state after every step; each of them is given to a fresh run with another number of
// threads. What it writes after its next steps must be what the whole run wrote there, and, for some stops,
// up to the end. A stopped run's own state must be that of the whole run too.
TEST(Resume, SixtyStopsAnyNumberOfThreads) {
  TestRun whole(2);
  std::vector<std::vector<NamedBytes>> states;
  const std::int64_t steps = whole.trainer->steps_per_epoch() * kEpochs;
  ASSERT_GE(steps, kStops + 4);
  for (std::int64_t step = 1; step <= steps; ++step) {
    whole.recorder.stop_at = step;
    whole.trainer->run();
    ASSERT_EQ(whole.trainer->step(), step);
    states.push_back(whole.trainer->state());
  }
  ASSERT_EQ(whole.recorder.epochs.size(), static_cast<std::size_t>(kEpochs));
  for (const EpochRecord& epoch : whole.recorder.epochs) {
    const StepRecord& last = whole.recorder.steps[static_cast<std::size_t>(epoch.step - 1)];
    EXPECT_EQ(epoch.learning_rates[1], last.members[1].learning_rate) << "of the epoch's last step";
  }
  {
    TestRun uninterrupted(1);
    uninterrupted.trainer->run();
    expect_equal_states(uninterrupted.trainer->state(), states.back());
  }
  for (std::int64_t stop = 1; stop <= kStops; ++stop) {
    SCOPED_TRACE("stopped after step " + std::to_string(stop));
    TestRun resumed(static_cast<int>(1 + stop % 3));
    resumed.trainer->restore(states[static_cast<std::size_t>(stop - 1)]);
    expect_equal_states(resumed.trainer->state(), states[static_cast<std::size_t>(stop - 1)]);
    resumed.trainer->run();
    ASSERT_EQ(resumed.trainer->step(), steps);
    expect_equal_states(resumed.trainer->state(), states.back());
    ASSERT_EQ(resumed.recorder.steps.size(), static_cast<std::size_t>(steps - stop));
    for (std::size_t i = 0; i < resumed.recorder.steps.size(); ++i) {
      expect_equal(resumed.recorder.steps[i], whole.recorder.steps[i + static_cast<std::size_t>(stop)]);
    }
    const std::size_t epochs_before = static_cast<std::size_t>(stop / whole.trainer->steps_per_epoch());
    ASSERT_EQ(resumed.recorder.epochs.size() + epochs_before, static_cast<std::size_t>(kEpochs));
    for (std::size_t i = 0; i < resumed.recorder.epochs.size(); ++i) {
      expect_equal(resumed.recorder.epochs[i], whole.recorder.epochs[i + epochs_before]);
    }
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace cohort::distill
