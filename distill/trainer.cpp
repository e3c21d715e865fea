#include "distill/trainer.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

namespace cohort::distill {
namespace {

// With NanPolicy::kSkip: a member that skips this many steps in a row will not recover.
constexpr int kMaxSkipped = 3;

const Scores& scores_of(const CohortScores& scores, std::size_t index) {
  return index < scores.members.size() ? scores.members[index] : scores.ensemble;
}

}  // namespace

Trainer::Trainer(Context& ctx, Cohort& cohort, TrainerData data, const TrainerOptions& options,
                 TrainerObserver& observer)
    : ctx_(ctx), cohort_(cohort), data_(std::move(data)), options_(options), observer_(observer) {
  check(data_.train != nullptr && !data_.train_indices.empty(), "trainer: no training images");
  if (cohort.method().wants_held_out() && data_.held_out_indices.empty()) {
    throw Error(ErrorKind::kUsage, "the method learns from held-out images, and there are none",
                "--val-fraction 0.1 holds out a tenth of every class");
  }
  const auto members = static_cast<std::size_t>(cohort.size());
  train_images_ = to_device(ctx, *data_.train, options.placement);
  if (data_.test != nullptr) test_images_ = to_device(ctx, *data_.test, options.placement);
  cohort.method().prepare(ctx, {.samples = data_.train->size(), .epochs = options.epochs});
  feed_ = std::make_unique<Feed>(
      cohort.make_feed(train_images_, data_.train_indices, options.batch_size, options.shuffle));
  sums_ = {std::vector<double>(members, 0.0), std::vector<std::int64_t>(members, 0), 0};
  skipped_.assign(members, 0);
  best_.resize(members + 1);
}

std::int64_t Trainer::steps_per_epoch() const {
  return feed_->steps_per_epoch();
}

std::size_t Trainer::pinned_bytes() const {
  std::size_t bytes = feed_->pinned_bytes();
  const auto add = [&](const DeviceImages& images, std::int64_t count) {
    if (images.host != nullptr && count > 0)
      bytes += HostFeed::pinned_bytes(images, count, Cohort::kEvalBatch);
  };
  add(train_images_, static_cast<std::int64_t>(data_.held_out_indices.size()));
  if (data_.test != nullptr) add(test_images_, data_.test->size());
  return bytes;
}

std::vector<double> Trainer::learning_rates(std::int64_t step) const {
  const double factor = options_.schedule.factor_at(step, steps_per_epoch(), options_.epochs);
  std::vector<double> rates;
  for (const Cohort::Member& member : cohort_.members()) rates.push_back(member.spec.learning_rate * factor);
  return rates;
}

void Trainer::start_epoch(int epoch, std::int64_t position) {
  std::vector<std::vector<double>> rates;
  for (std::int64_t k = 0; k < steps_per_epoch(); ++k)
    rates.push_back(learning_rates(epoch * steps_per_epoch() + k));
  feed_->start(epoch, position, cohort_.rate_table(rates));
}

StepRecord Trainer::next_record() {
  const Cohort::StepValues v = cohort_.values(step_);
  const std::vector<double> rates = learning_rates(step_);
  StepRecord record{.step = step_ + 1,
                    .epoch = static_cast<int>(step_ / steps_per_epoch()),
                    .rows = static_cast<int>(feed_->rows(step_ % steps_per_epoch())),
                    .teacher = v.teacher,
                    .perturbed = v.perturbed,
                    .operation = v.operation,
                    .members = {}};
  for (std::size_t k = 0; k < v.loss.size(); ++k) {
    const auto rows = static_cast<int>(cohort_.member_rows(*feed_, record.rows, k));
    record.members.push_back({v.loss[k], v.ce[k], v.kl[k], v.feature[k], rates[k], rows,
                              rows == 0 ? 0 : v.correct_top1[k], v.stepped[k], v.paused[k], v.mode[k]});
  }
  return record;
}

// Takes in what the oldest step not yet taken in has measured.
void Trainer::finish_step() {
  const StepRecord record = next_record();
  for (std::size_t k = 0; k < record.members.size(); ++k) {
    const MemberStep& s = record.members[k];
    skipped_[k] = s.stepped ? 0 : skipped_[k] + 1;
    const bool give_up =
        options_.nan == NanPolicy::kStop || (options_.nan == NanPolicy::kSkip && skipped_[k] >= kMaxSkipped);
    if (!s.stepped && give_up) {
      throw Error(
          ErrorKind::kNotFinite,
          fmt::format("network '{}' is no longer finite at step {} (epoch {}): loss {}, cross-entropy {}",
                      cohort_.members()[k].spec.id, record.step, record.epoch + 1, s.loss, s.ce),
          "its weights were not updated by that step; lower --lr, or use --nan skip");
    }
    // A paused member has no loss in force; its cross-entropy is what people compare.
    if (s.stepped && s.rows > 0) sums_.loss[k] += (s.paused ? s.ce : s.loss) * s.rows;
    sums_.correct[k] += s.correct_top1;
  }
  sums_.rows += record.rows;
  last_rates_.clear();
  for (const MemberStep& s : record.members) last_rates_.push_back(s.learning_rate);
  ++step_;
  observer_.on_step(record);
}

CohortScores Trainer::evaluate(const DeviceImages& images, const std::vector<std::int32_t>& indices,
                               std::span<const std::int32_t> labels, bool show) {
  const std::vector<std::vector<float>> logits = cohort_.predict(images, indices);
  std::vector<std::int32_t> own;
  own.reserve(indices.size());
  for (const std::int32_t i : indices) own.push_back(labels[static_cast<std::size_t>(i)]);
  if (show) cohort_.method().end_of_epoch(ctx_, {logits, own, data_.train->num_classes});
  return score(logits, own, data_.train->num_classes);
}

// The member's share of the epoch's images.
std::int64_t Trainer::epoch_rows(std::size_t member) const {
  if (cohort_.batches_per_step() == 1) return std::max<std::int64_t>(sums_.rows, 1);
  std::int64_t rows = 0;
  for (std::int64_t position = 0; position < steps_per_epoch(); ++position)
    rows += cohort_.member_rows(*feed_, feed_->rows(position), member);
  return rows;
}

void Trainer::finish_epoch() {
  cohort_.end_epoch();
  EpochRecord record;
  record.epoch = static_cast<int>(step_ / steps_per_epoch()) - 1;
  record.step = step_;
  record.learning_rates = last_rates_;
  for (std::size_t k = 0; k < sums_.loss.size(); ++k) {
    const auto rows = static_cast<double>(epoch_rows(k));
    record.train_loss.push_back(sums_.loss[k] / rows);
    record.train_top1.push_back(static_cast<double>(sums_.correct[k]) / rows);
    sums_.loss[k] = 0;
    sums_.correct[k] = 0;
  }
  sums_.rows = 0;
  const bool select_on_test = data_.held_out_indices.empty();
  const bool last = record.epoch + 1 == options_.epochs;
  std::vector<std::int32_t> all_test;
  const auto test = [&] {
    if (all_test.empty()) {
      all_test.resize(static_cast<std::size_t>(data_.test->size()));
      std::iota(all_test.begin(), all_test.end(), 0);
    }
    return evaluate(test_images_, all_test, data_.test->labels);
  };
  if (!select_on_test) {
    record.held_out = evaluate(train_images_, data_.held_out_indices, data_.train->labels,
                               cohort_.method().wants_held_out());
  } else if (data_.test != nullptr) {
    record.test = test();
  }
  const std::optional<CohortScores>& selecting = select_on_test ? record.test : record.held_out;
  if (selecting) {
    bool any = false;
    for (std::size_t k = 0; k < best_.size(); ++k) {
      record.new_best.push_back(scores_of(*selecting, k).top1 > best_[k].value);
      any = any || record.new_best.back();
    }
    if (data_.test != nullptr && !record.test && (any || last)) record.test = test();
    for (std::size_t k = 0; k < best_.size(); ++k) {
      if (!record.new_best[k]) continue;
      best_[k] = {scores_of(*selecting, k).top1, record.epoch, scores_of(*selecting, k), std::nullopt};
      if (record.test) best_[k].test = scores_of(*record.test, k);
    }
  }
  last_held_out_ = record.held_out;
  if (record.test) last_test_ = record.test;
  observer_.on_epoch(record);
}

RunResult Trainer::result(StopRequest stopped) const {
  return {stopped, step_, static_cast<int>(step_ / steps_per_epoch()), best_, last_held_out_, last_test_};
}

RunResult Trainer::run() {
  const std::int64_t per_epoch = steps_per_epoch();
  std::int64_t end = per_epoch * options_.epochs;
  if (options_.max_steps > 0) end = std::min(end, options_.max_steps);
  // The host runs ahead of a GPU, never across the end of an epoch: evaluation and checkpoints see a device
  // at rest.
  const std::int64_t ahead = ctx_.device().kind == DeviceKind::kCpu ? 1 : Cohort::kMaxAhead / 2;
  std::int64_t enqueued = step_;
  bool started = false;
  while (step_ < end) {
    if (!started) start_epoch(static_cast<int>(step_ / per_epoch), step_ % per_epoch);
    started = true;
    const std::int64_t last = std::min(end, (step_ / per_epoch + 1) * per_epoch);
    for (; enqueued < std::min(last, step_ + ahead); ++enqueued) cohort_.train(*feed_);
    finish_step();
    if (step_ % per_epoch == 0) {
      finish_epoch();
      started = false;
    }
    const StopRequest request = observer_.poll();
    if (request == StopRequest::kNone) continue;
    while (step_ < enqueued) {
      finish_step();
      if (step_ % per_epoch == 0) finish_epoch();
    }
    return result(request);
  }
  return result(StopRequest::kNone);
}

}  // namespace cohort::distill
