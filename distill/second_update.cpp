#include "distill/second_update.h"

#include <fmt/core.h>

#include "core/ops/epoch_weights.h"

namespace cohort::distill {
namespace {

// The elements of a network's block before its classifier, which is declared last.
std::int64_t backbone(const models::Network& network) {
  const ParameterSet& set = network.parameters();
  const std::string &weight = network.classifier().weight().name, &bias = network.classifier().bias().name;
  const std::deque<Parameter>& all = set.parameters();
  check(all.size() > 2 && all[all.size() - 2].name == weight && all.back().name == bias,
        "second update: the classifier is a network's last part");
  const auto bytes = static_cast<const std::byte*>(all[all.size() - 2].value.data) -
                     static_cast<const std::byte*>(set.values().data);
  return bytes / static_cast<std::int64_t>(size_of(set.values().dtype));
}

}  // namespace

SecondUpdate::SecondUpdate(Context& ctx, Method& method, const std::vector<models::Network*>& networks,
                           nn::Sgd& sgd)
    : ctx_(ctx),
      method_(method),
      networks_(networks),
      separate_(method.adam_updates()->separate),
      blocks_(networks.size()),
      gradients_(networks.size()),
      adam_(ctx) {
  const AdamUpdates updates = *method.adam_updates();
  for (std::size_t k = 0; k < networks.size(); ++k) {
    const int member = static_cast<int>(k);
    if (networks[k] != nullptr) {
      ParameterSet& set = networks[k]->parameters();
      gradients_[k] = set.grads();
      if (separate_) {
        blocks_[k] = ctx.persistent_tensor(set.grads().shape, set.grads().dtype);
        gradients_[k] = blocks_[k];
        gradients_[k].shape = {backbone(*networks[k])};
        sgd.watch(gradients_[k], member);
      }
      adam_.add(set, gradients_[k], member, updates.weight_decay);
    }
    for (ParameterSet* part : method.adam_parameters(member)) {
      sgd.watch(part->grads(), member);
      adam_.add(*part, part->grads(), member, updates.weight_decay);
    }
  }
  const auto blocks = static_cast<std::int64_t>(adam_.states().size());
  rates_ =
      constant(ctx, {blocks}, std::vector<double>(static_cast<std::size_t>(blocks), updates.learning_rate));
  factors_ = constant(ctx, {static_cast<std::int64_t>(updates.factors.size())}, updates.factors);
}

void SecondUpdate::backward(StepView& view, int member) {
  if (!separate_) return;
  const auto k = static_cast<std::size_t>(member);
  ParameterSet& set = networks_[k]->parameters();
  set.collect_grads_in(blocks_[k]);
  method_.second_losses(ctx_, view, member);
  ctx_.backward();
  set.collect_grads_in(set.grads());
}

void SecondUpdate::step(const StepView& view, const Tensor& mask) {
  adam_.step(ops::epoch_weights(ctx_, rates_, factors_, view.epoch), mask);
}

std::vector<std::pair<std::string, Tensor>> SecondUpdate::state(int member) const {
  std::vector<std::pair<std::string, Tensor>> all;
  int number = 0;
  for (const nn::Adam::State& state : adam_.states()) {
    if (state.owner != member) continue;
    ++number;
    all.emplace_back(fmt::format("mean{}", number), state.mean);
    all.emplace_back(fmt::format("square{}", number), state.square);
    all.emplace_back(fmt::format("steps{}", number), state.steps);
  }
  return all;
}

}  // namespace cohort::distill
