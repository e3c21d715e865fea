// One update of a Cohort: the networks walked forwards, the method's losses, the way back, the optimiser.
#include <algorithm>
#include <utility>

#include "core/ops/pointwise.h"
#include "distill/cohort.h"

namespace cohort::distill {
namespace {

// Running statistics move once a step: a second training pass over the same batch has none to write to.
class WithoutStatistics {
 public:
  explicit WithoutStatistics(ParameterSet& parameters) : buffers_(parameters.buffers()) {
    for (Buffer& buffer : buffers_) kept_.push_back(std::exchange(buffer.value, {}));
  }
  ~WithoutStatistics() {
    for (std::size_t i = 0; i < kept_.size(); ++i) buffers_[i].value = kept_[i];
  }
  WithoutStatistics(const WithoutStatistics&) = delete;
  WithoutStatistics& operator=(const WithoutStatistics&) = delete;

 private:
  std::deque<Buffer>& buffers_;
  std::vector<Tensor> kept_;
};

// Nobody's own: gradients of several members may not meet on them.
void detach_maps(models::Outputs& out) {
  for (Tensor& map : out.stages) map = map.detached();
  for (Tensor& map : out.stages_pre) map = map.detached();
}

}  // namespace

models::ForwardOptions Cohort::how(const Member& member, bool training) const {
  return {.training = training && !member.frozen,
          .preactivation = training && method_->wants_preactivation()};
}

Tensor Cohort::advance(const models::Network& network, Meeting meeting, int& done, const Tensor& x,
                       const models::ForwardOptions& how, models::Outputs& out) {
  const int from = done;
  done = meeting == Meeting::kAfterStem ? 1 : network.num_parts();
  const Tensor map = network.run(ctx_, from, done, x, how, out);
  return done == network.num_parts() ? out.stages.back() : map;
}

void Cohort::forward(std::size_t k, int done, const Tensor& entry, bool training, models::Outputs& out) {
  const Member& member = members_[k];
  const models::Network& network = *member.network;
  Tensor last = entry;
  if (done < network.num_parts()) {
    network.run(ctx_, done, network.num_parts(), entry, how(member, training), out);
    last = out.stages.back();
  }
  network.classify(ctx_, method_->transform(ctx_, static_cast<int>(k), last, training), out);
}

// The parts that two members each have in common, on the first one's branch.
void Cohort::walk_pairs(Walk& walked, bool training) {
  walked.pairs.resize(members_.size() / 2);
  ctx_.fork();
  for (std::size_t i = 0; i < walked.pairs.size(); ++i) {
    Walk::Pair& pair = walked.pairs[i];
    const Member& owner = members_[2 * i];
    ctx_.on_branch(static_cast<int>(2 * i) + 1, [&] {
      pair.entry = ctx_.leaf(walked.shared);
      pair.map = owner.network->run(ctx_, sharing_.parts, sharing_.pair_parts, pair.entry,
                                    how(owner, training), walked.outputs[2 * i]);
      pair.recorded = ctx_.num_recorded();
    });
    detach_maps(walked.outputs[2 * i]);
    walked.outputs[2 * i + 1] = walked.outputs[2 * i];
  }
  ctx_.join();
}

// Every member up to the last meeting; the parts that each has then gone through.
std::vector<int> Cohort::walk_to_meetings(Walk& walked, bool training) {
  std::vector<int> done(members_.size(), first_own_part());
  for (const Meeting meeting : meetings_) {
    Walk::Met& met = walked.met.emplace_back();
    ctx_.fork();
    for (std::size_t k = 0; k < members_.size(); ++k) {
      const Member& member = members_[k];
      ctx_.on_branch(static_cast<int>(k) + 1, [&] {
        ctx_.set_recording(training && !member.frozen);
        walked.entries[k] = advance(*member.network, meeting, done[k], walked.entries[k],
                                    how(member, training), walked.outputs[k]);
        met.members.push_back(ctx_.num_recorded());
        ctx_.set_recording(training);
      });
    }
    ctx_.join();
    met.main = ctx_.num_recorded();
    walked.entries = method_->meet(ctx_, meeting, walked.entries, training);
  }
  return done;
}

// Without a gradient, on the current branch.
Tensor Cohort::former_logits(std::size_t k, const Tensor& batch) {
  ctx_.set_recording(false);
  const Tensor logits = members_[k].former->forward(ctx_, batch, {.training = false}).logits;
  ctx_.set_recording(true);
  return logits;
}

Cohort::Walk Cohort::walk(const std::vector<Tensor>& batches, bool training) {
  Walk walked{.outputs = std::vector<models::Outputs>(members_.size()), .shared = {}, .entries = batches};
  models::Outputs below;
  if (sharing_.parts > 0) {
    const Member& owner = members_.front();
    walked.shared = owner.network->run(ctx_, 0, sharing_.parts, batches.front(), how(owner, training), below);
    detach_maps(below);
  }
  for (models::Outputs& outputs : walked.outputs) outputs = below;
  if (sharing_.pair_parts > 0) walk_pairs(walked, training);
  const std::vector<int> done = walk_to_meetings(walked, training);
  if (training) walked.former.resize(members_.size());
  ctx_.fork();
  for (std::size_t k = 0; k < members_.size(); ++k) {
    ctx_.on_branch(static_cast<int>(k) + 1, [&] {
      if (training && members_[k].former) walked.former[k] = former_logits(k, batches[k]);
      ctx_.set_recording(training && !members_[k].frozen);
      if (sharing_.parts > 0)
        walked.entries[k] = ctx_.leaf(walked.pairs.empty() ? walked.shared : walked.pairs[k / 2].map);
      forward(k, done[k], walked.entries[k], training, walked.outputs[k]);
      ctx_.set_recording(training);
    });
  }
  ctx_.join();
  walked.main = ctx_.num_recorded();
  return walked;
}

// The gradients of the two members of every pair, in their order, through the parts that they have in common.
void Cohort::backward_pairs(const Walk& walked) {
  const double factor = sharing_.mean_gradient ? 0.5 : 1.0;
  ctx_.fork();
  for (std::size_t i = 0; i < walked.pairs.size(); ++i) {
    ctx_.on_branch(static_cast<int>(2 * i) + 1, [&] {
      for (const Tensor& entry : {walked.entries[2 * i], walked.entries[2 * i + 1]}) {
        if (entry.grad->written) ops::add_gradient(ctx_, walked.pairs[i].map, ctx_.grad_of(entry), factor);
      }
      ctx_.backward();
    });
  }
  ctx_.join();
}

// The gradients of all who read the shared map, in the members' order and then the method's, through the
// parts below it.
void Cohort::backward_shared(const Walk& walked, const StepView& view) {
  std::vector<Tensor> readers = walked.entries;
  if (!walked.pairs.empty()) {
    backward_pairs(walked);
    readers.clear();
    for (const Walk::Pair& pair : walked.pairs) readers.push_back(pair.entry);
  }
  const double factor = sharing_.mean_gradient ? 1.0 / static_cast<double>(readers.size()) : 1.0;
  for (const Tensor& entry : readers) {
    if (entry.grad->written) ops::add_gradient(ctx_, walked.shared, ctx_.grad_of(entry), factor);
  }
  if (view.shared.grad->written) ops::add_gradient(ctx_, walked.shared, ctx_.grad_of(view.shared));
  ctx_.backward();
}

// Every member's tape, down to the node after first[k] others.
void Cohort::backward_members(const std::vector<std::size_t>& first) {
  ctx_.fork();
  for (std::size_t k = 0; k < members_.size(); ++k) {
    if (members_[k].frozen) continue;
    ctx_.on_branch(static_cast<int>(k) + 1, [&] { ctx_.backward(first[k]); });
  }
  ctx_.join();
}

// Back the way that the networks came: to the last meeting, through it, to the one before; or to where parts
// are common.
Cohort::Update Cohort::update_all(StepView& view, const Walk& walked) {
  const std::vector<std::size_t> start(members_.size(), 0);
  std::vector<std::size_t> down_to = walked.met.empty() ? start : walked.met.back().members;
  for (std::size_t i = 0; i < walked.pairs.size(); ++i) down_to[2 * i] = walked.pairs[i].recorded;
  method_->losses(ctx_, view);
  ctx_.backward(walked.main);
  ctx_.fork();
  for (std::size_t k = 0; k < members_.size(); ++k) {
    if (members_[k].frozen) continue;
    ctx_.on_branch(static_cast<int>(k) + 1, [&] {
      method_->feature_losses(ctx_, view, static_cast<int>(k));
      ctx_.backward(down_to[k]);
      if (second_update_) second_update_->backward(view, static_cast<int>(k));
    });
  }
  ctx_.join();
  for (std::size_t i = walked.met.size(); i > 0; --i) {
    ctx_.backward(walked.met[i - 1].main);
    backward_members(i > 1 ? walked.met[i - 2].members : start);
  }
  if (sharing_.parts > 0) backward_shared(walked, view);
  const Tensor mask = sgd_->step(view.report.loss, view.report.step_mask);
  if (second_update_) second_update_->step(view, mask);
  return {view.report, mask};
}

void Cohort::prepare_second_update() {
  check(sharing_.parts == 0 && meetings_.empty() && turns_.empty(),
        "cohort: a second update is of networks of their own, all at the same time");
  std::vector<models::Network*> networks;
  for (const Member& member : members_) networks.push_back(member.frozen ? nullptr : member.network.get());
  second_update_ = std::make_unique<SecondUpdate>(ctx_, *method_, networks, *sgd_);
}

void Cohort::prepare_turns(bool new_batches) {
  check(sharing_.parts == 0 && meetings_.empty(), "cohort: networks that take turns have nothing in common");
  for (std::size_t k = 0; k < members_.size(); ++k) {
    check(!members_[k].frozen, "cohort: a frozen network has no turn");
    std::vector<std::int32_t> mine(members_.size(), 0);
    mine[k] = 1;
    turns_.push_back(ctx_.persistent_tensor({size()}, DType::i32));
    ctx_.upload(turns_.back(), mine.data());
    if (!new_batches) continue;
    std::fill_n(mine.begin(), k + 1, 1);
    had_turn_.push_back(ctx_.persistent_tensor({size()}, DType::i32));
    ctx_.upload(had_turn_.back(), mine.data());
  }
  check(!new_batches || !perturbation_, "cohort: networks with batches of their own are not perturbed");
}

// Member k's losses from what the view holds, its way back and its step.
Cohort::Update Cohort::take_turn(StepView& view, std::size_t k) {
  method_->losses(ctx_, view);
  ctx_.fork();
  ctx_.on_branch(static_cast<int>(k) + 1, [&] {
    method_->feature_losses(ctx_, view, static_cast<int>(k));
    ctx_.backward();
  });
  ctx_.join();
  return {view.report, sgd_->step(view.report.loss, turns_[k])};
}

// A training pass on the current branch that leaves no trace: what others learn from.
void Cohort::answer_only(std::size_t k, const Tensor& batch, models::Outputs& out) {
  const WithoutStatistics once(members_[k].network->parameters());
  ctx_.set_recording(false);
  out = {};
  forward(k, 0, batch, /*training=*/true, out);
  ctx_.set_recording(true);
}

std::vector<Cohort::Update> Cohort::update_in_turn(StepView& view, const Walk& walked) {
  std::vector<Update> updates;
  for (std::size_t k = 0; k < members_.size(); ++k) {
    // What earlier turns wrote for members whose turn had not come is no gradient of theirs.
    for (const models::Outputs& outputs : view.outputs)
      if (outputs.logits.grad != nullptr) outputs.logits.grad->written = false;
    updates.push_back(take_turn(view, k));
    if (k + 1 == members_.size()) break;
    ctx_.fork();
    ctx_.on_branch(static_cast<int>(k) + 1, [&] { answer_only(k, walked.entries[k], view.outputs[k]); });
    ctx_.join();
  }
  return updates;
}

// The step's images are dealt out in batches; who gets none at the end of an epoch is paused in that step.
std::vector<Cohort::Update> Cohort::update_with_new_batches(const Feed& feed, StepView& view,
                                                            std::int64_t rows) {
  std::vector<Update> updates;
  std::int64_t first = 0;
  for (std::size_t k = 0; k < members_.size(); ++k) {
    const std::int64_t own = member_rows(feed, rows, k);
    if (own == 0) break;
    show_rows(view, first, own);
    const std::vector<Tensor> batches = make_batches(feed, first, own, /*training=*/true);
    first += own;
    view.outputs.assign(members_.size(), {});
    view.former.assign(members_.size(), {});
    ctx_.fork();
    for (std::size_t j = 0; j < members_.size(); ++j) {
      ctx_.on_branch(static_cast<int>(j) + 1, [&] {
        if (j != k) return answer_only(j, batches[j], view.outputs[j]);
        if (members_[k].former) view.former[k] = former_logits(k, batches[k]);
        forward(k, 0, batches[k], /*training=*/true, view.outputs[k]);
      });
    }
    ctx_.join();
    updates.push_back(take_turn(view, k));
  }
  if (updates.size() < members_.size()) updates.back().report.step_mask = had_turn_[updates.size() - 1];
  return updates;
}

}  // namespace cohort::distill
