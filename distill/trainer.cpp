#include "distill/trainer.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "kernels/base/philox.h"

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
  const auto members = static_cast<std::size_t>(cohort.size());
  train_images_ = to_device(ctx, *data_.train);
  if (data_.test != nullptr) test_images_ = to_device(ctx, *data_.test);
  sums_ = {std::vector<double>(members, 0.0), std::vector<std::int64_t>(members, 0), 0};
  skipped_.assign(members, 0);
  best_.resize(members + 1);
}

std::int64_t Trainer::steps_per_epoch() const {
  const auto images = static_cast<std::int64_t>(data_.train_indices.size());
  return (images + options_.batch_size - 1) / options_.batch_size;
}

std::vector<std::int32_t> Trainer::order(int epoch) const {
  std::vector<std::int32_t> indices = data_.train_indices;
  if (!options_.shuffle) return indices;
  // Fisher-Yates; one address per epoch, so an epoch's order needs no history.
  Rng rng({.seed = ctx_.seed(), .purpose = RngPurpose::kShuffle, .epoch = static_cast<std::uint32_t>(epoch)});
  for (std::size_t i = indices.size(); i > 1; --i) {
    std::swap(indices[i - 1], indices[rng.below(static_cast<std::uint32_t>(i))]);
  }
  return indices;
}

std::vector<double> Trainer::learning_rates() const {
  const double factor = options_.schedule.factor_at(step_, steps_per_epoch(), options_.epochs);
  std::vector<double> rates;
  for (const Cohort::Member& member : cohort_.members()) rates.push_back(member.spec.learning_rate * factor);
  return rates;
}

StepRecord Trainer::record_step(int rows) {
  const Report& report = cohort_.report();
  const std::vector<double> loss = download_values(ctx_, report.loss), ce = download_values(ctx_, report.ce),
                            kl = download_values(ctx_, report.kl),
                            correct = download_values(ctx_, report.correct_top1);
  const std::vector<std::int32_t> stepped = cohort_.stepped();
  const std::vector<double> rates = learning_rates();
  StepRecord record{
      .step = step_ + 1,
      .epoch = static_cast<int>(step_ / steps_per_epoch()),
      .rows = rows,
      .teacher = report.teacher.empty() ? -1 : static_cast<int>(download_values(ctx_, report.teacher)[0]),
      .perturbed = cohort_.perturbed_member(),
      .operation = cohort_.perturbation(),
      .members = {}};
  for (std::size_t k = 0; k < loss.size(); ++k) {
    record.members.push_back({loss[k], ce[k], kl[k], 0.0, rates[k], static_cast<int>(correct[k]),
                              stepped[k] != 0 || cohort_.members()[k].frozen});
  }
  for (const FeatureTerm& term : report.feature_terms) {
    record.members[static_cast<std::size_t>(term.member)].feature +=
        download_values(ctx_, term.weight)[0] * download_values(ctx_, term.value)[0];
  }
  return record;
}

void Trainer::train_one(std::span<const std::int32_t> order) {
  const std::int64_t in_epoch = step_ % steps_per_epoch();
  const std::int64_t begin = in_epoch * options_.batch_size;
  const std::int64_t end =
      std::min<std::int64_t>(begin + options_.batch_size, static_cast<std::int64_t>(order.size()));
  cohort_.train({.images = &train_images_,
                 .indices = {order.begin() + begin, order.begin() + end},
                 .step = step_,
                 .epoch = static_cast<int>(step_ / steps_per_epoch()),
                 .learning_rates = learning_rates()});
  const StepRecord record = record_step(static_cast<int>(end - begin));
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
    if (s.stepped) sums_.loss[k] += s.loss * record.rows;
    sums_.correct[k] += s.correct_top1;
  }
  sums_.rows += record.rows;
  last_rates_.clear();
  for (const MemberStep& s : record.members) last_rates_.push_back(s.learning_rate);
  ++step_;
  observer_.on_step(record);
}

CohortScores Trainer::evaluate(const DeviceImages& images, const std::vector<std::int32_t>& indices,
                               std::span<const std::int32_t> labels) {
  const std::vector<std::vector<float>> logits = cohort_.predict(images, indices);
  std::vector<std::int32_t> own;
  own.reserve(indices.size());
  for (const std::int32_t i : indices) own.push_back(labels[static_cast<std::size_t>(i)]);
  return score(logits, own, data_.train->num_classes);
}

void Trainer::finish_epoch() {
  EpochRecord record;
  record.epoch = static_cast<int>(step_ / steps_per_epoch()) - 1;
  record.step = step_;
  record.learning_rates = last_rates_;
  const double rows = static_cast<double>(std::max<std::int64_t>(sums_.rows, 1));
  for (std::size_t k = 0; k < sums_.loss.size(); ++k) {
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
    record.held_out = evaluate(train_images_, data_.held_out_indices, data_.train->labels);
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
  std::vector<std::int32_t> indices;
  int ordered_epoch = -1;
  while (step_ < per_epoch * options_.epochs) {
    if (options_.max_steps > 0 && step_ >= options_.max_steps) break;
    const int epoch = static_cast<int>(step_ / per_epoch);
    if (epoch != ordered_epoch) {
      indices = order(epoch);
      ordered_epoch = epoch;
    }
    train_one(indices);
    if (step_ % per_epoch == 0) finish_epoch();
    const StopRequest request = observer_.poll();
    if (request != StopRequest::kNone) return result(request);
  }
  return result(StopRequest::kNone);
}

}  // namespace cohort::distill
