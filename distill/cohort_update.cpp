// One update of a Cohort: the networks walked forwards, the method's losses, the way back, the optimiser.
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

}  // namespace

models::ForwardOptions Cohort::how(const Member& member, bool training) const {
  return {.training = training && !member.frozen,
          .preactivation = training && method_->wants_preactivation()};
}

void Cohort::forward(std::size_t k, const Tensor& entry, bool training, models::Outputs& out) {
  const Member& member = members_[k];
  const models::Network& network = *member.network;
  network.run(ctx_, sharing_.parts, network.num_parts(), entry, how(member, training), out);
  network.classify(ctx_, method_->transform(ctx_, static_cast<int>(k), out.stages.back(), training), out);
}

Cohort::Walk Cohort::walk(const std::vector<Tensor>& batches, bool training) {
  Walk walked{.outputs = std::vector<models::Outputs>(members_.size()), .shared = {}, .entries = batches};
  models::Outputs below;
  if (sharing_.parts > 0) {
    const Member& owner = members_.front();
    walked.shared = owner.network->run(ctx_, 0, sharing_.parts, batches.front(), how(owner, training), below);
    // Nobody's own: gradients of several members may not meet on them.
    for (Tensor& map : below.stages) map = map.detached();
    for (Tensor& map : below.stages_pre) map = map.detached();
  }
  ctx_.fork();
  for (std::size_t k = 0; k < members_.size(); ++k) {
    const Member& member = members_[k];
    models::Outputs& out = walked.outputs[k] = below;
    ctx_.on_branch(static_cast<int>(k) + 1, [&] {
      ctx_.set_recording(training && !member.frozen);
      if (sharing_.parts > 0) walked.entries[k] = ctx_.leaf(walked.shared);
      forward(k, walked.entries[k], training, out);
      ctx_.set_recording(training);
    });
  }
  ctx_.join();
  return walked;
}

// The gradients of all who read the shared map, in the members' order and then the method's, through the
// parts below it.
void Cohort::backward_shared(const Walk& walked, const StepView& view) {
  const double factor = sharing_.mean_gradient ? 1.0 / size() : 1.0;
  for (const Tensor& entry : walked.entries) {
    if (entry.grad->written) ops::add_gradient(ctx_, walked.shared, ctx_.grad_of(entry), factor);
  }
  if (view.shared.grad->written) ops::add_gradient(ctx_, walked.shared, ctx_.grad_of(view.shared));
  ctx_.backward();
}

Cohort::Update Cohort::update_all(StepView& view, const Walk& walked) {
  method_->losses(ctx_, view);
  ctx_.backward();
  ctx_.fork();
  for (std::size_t k = 0; k < members_.size(); ++k) {
    if (members_[k].frozen) continue;
    ctx_.on_branch(static_cast<int>(k) + 1, [&] {
      method_->feature_losses(ctx_, view, static_cast<int>(k));
      ctx_.backward();
    });
  }
  ctx_.join();
  if (sharing_.parts > 0) backward_shared(walked, view);
  return {view.report, sgd_->step(view.report.loss, view.report.step_mask)};
}

void Cohort::prepare_turns() {
  check(sharing_.parts == 0, "cohort: networks that take turns have nothing in common");
  for (std::size_t k = 0; k < members_.size(); ++k) {
    check(!members_[k].frozen, "cohort: a frozen network has no turn");
    std::vector<std::int32_t> mine(members_.size(), 0);
    mine[k] = 1;
    turns_.push_back(ctx_.persistent_tensor({size()}, DType::i32));
    ctx_.upload(turns_.back(), mine.data());
  }
}

std::vector<Cohort::Update> Cohort::update_in_turn(StepView& view, const Walk& walked) {
  std::vector<Update> updates;
  for (std::size_t k = 0; k < members_.size(); ++k) {
    // What earlier turns wrote for members whose turn had not come is no gradient of theirs.
    for (const models::Outputs& outputs : view.outputs)
      if (outputs.logits.grad != nullptr) outputs.logits.grad->written = false;
    method_->losses(ctx_, view);
    ctx_.fork();
    ctx_.on_branch(static_cast<int>(k) + 1, [&] {
      method_->feature_losses(ctx_, view, static_cast<int>(k));
      ctx_.backward();
    });
    ctx_.join();
    updates.push_back({view.report, sgd_->step(view.report.loss, turns_[k])});
    if (k + 1 == members_.size()) break;
    ctx_.fork();
    ctx_.on_branch(static_cast<int>(k) + 1, [&] {
      const WithoutStatistics once(members_[k].network->parameters());
      ctx_.set_recording(false);
      view.outputs[k] = {};
      forward(k, walked.entries[k], /*training=*/true, view.outputs[k]);
      ctx_.set_recording(true);
    });
    ctx_.join();
  }
  return updates;
}

}  // namespace cohort::distill
