#include "nn/adam.h"

#include "core/dispatch.h"

namespace cohort::nn {

void Adam::add(ParameterSet& parameters, const Tensor& gradient, int owner, double weight_decay) {
  const DType dtype = ctx_.parameter_dtype();
  check(gradient.dtype == dtype && gradient.count() <= parameters.values().count(),
        "adam: a gradient like its parameters");
  const Shape shape{gradient.count()};
  states_.push_back({owner, ctx_.persistent_tensor(shape, dtype), ctx_.persistent_tensor(shape, dtype),
                     ctx_.persistent_tensor({}, DType::i32)});
  const State& state = states_.back();
  blocks_.push_back({.parameter = parameters.values().data,
                     .gradient = gradient.data,
                     .mean = state.mean.data,
                     .square = state.square.data,
                     .steps = state.steps.as<std::int32_t>(),
                     .shadow = static_cast<bf16*>(parameters.shadow().data),
                     .count = gradient.count(),
                     .weight_decay = weight_decay,
                     .owner = owner});
}

void Adam::step(const Tensor& rates, const Tensor& mask) {
  check(rates.dtype == ctx_.parameter_dtype() && rates.count() == static_cast<std::int64_t>(blocks_.size()),
        "adam: one rate per block");
  const Workspace workspace = ctx_.workspace(kernels::adam_workspace(blocks_.size()));
  on_device(ctx_, [&](auto stream) {
    kernels::adam(stream,
                  {.blocks = blocks_,
                   .learning_rate = rates.data,
                   .step_mask = mask.as<std::int32_t>(),
                   .dtype = rates.dtype},
                  workspace);
  });
}

}  // namespace cohort::nn
