#include "nn/sgd.h"

#include "core/dispatch.h"

namespace cohort::nn {

Sgd::Sgd(Context& ctx, int members, const SgdOptions& options)
    : ctx_(ctx), options_(options), members_(members) {
  allowed_ = ctx.persistent_tensor({members}, DType::i32);
  set_allowed(std::vector<std::int32_t>(static_cast<std::size_t>(members), 1));
}

void Sgd::add(ParameterSet& parameters, int member, double weight_decay) {
  check(gradients_.size() == blocks_.size(), "sgd: blocks come before what is watched");
  blocks_.push_back({.parameter = parameters.values().data,
                     .gradient = parameters.grads().data,
                     .momentum = parameters.momenta().data,
                     .shadow = static_cast<bf16*>(parameters.shadow().data),
                     .count = parameters.values().count(),
                     .weight_decay = weight_decay});
  gradients_.push_back({parameters.grads().data, parameters.grads().count(), member});
  owners_.push_back(member);
  const auto blocks = static_cast<std::int64_t>(blocks_.size());
  rates_ = ctx_.persistent_tensor({blocks}, DType::f32);
  block_mask_ = ctx_.persistent_tensor({blocks}, DType::i32);
}

void Sgd::watch(const Tensor& gradient, int member) {
  gradients_.push_back({gradient.data, gradient.count(), member});
  block_mask_ = ctx_.persistent_tensor({static_cast<std::int64_t>(gradients_.size())}, DType::i32);
}

std::vector<float> Sgd::rates_of(const std::vector<double>& members) const {
  std::vector<float> per_block;
  for (const int owner : owners_)
    per_block.push_back(static_cast<float>(members[static_cast<std::size_t>(owner)]));
  return per_block;
}

void Sgd::set_allowed(const std::vector<std::int32_t>& allowed) {
  check(static_cast<int>(allowed.size()) == members_, "sgd: one flag per member");
  ctx_.upload(allowed_, allowed.data());
}

Tensor Sgd::step(const Tensor& loss, const Tensor& allowed) {
  const Tensor& may = allowed.empty() ? allowed_ : allowed;
  check(may.dtype == DType::i32 && may.count() == members_, "sgd: one flag per member");
  const DType dtype = ctx_.parameter_dtype();
  const Tensor mask = ctx_.empty({members_}, DType::i32);
  on_device(ctx_, [&](auto stream) {
    kernels::finite_guard(stream, {.dtype = dtype,
                                   .members = members_,
                                   .blocks = gradients_,
                                   .loss = loss.data,
                                   .allowed = may.as<std::int32_t>(),
                                   .mask = mask.as<std::int32_t>(),
                                   .block_mask = block_mask_.as<std::int32_t>()});
    kernels::sgd(stream, {.members = blocks_,
                          .learning_rate = rates_.as<float>(),
                          .step_mask = block_mask_.as<std::int32_t>(),
                          .momentum = options_.momentum,
                          .nesterov = options_.nesterov,
                          .dtype = dtype});
  });
  return mask;
}

}  // namespace cohort::nn
