// Adam on blocks of parameters, each with averages and a counter of its own (kernels/adam.h).
#pragma once

#include <vector>

#include "core/context.h"
#include "core/parameter.h"
#include "kernels/adam.h"

namespace cohort::nn {

class Adam {
 public:
  // What a block keeps from step to step: what a checkpoint holds of it.
  struct State {
    int owner;
    Tensor mean, square;  // (count) parameter dtype
    Tensor steps;         // () i32
  };

  explicit Adam(Context& ctx) : ctx_(ctx) {}

  // The set's leading elements, as many as `gradient` has, a block laid out as the set's own. They step where
  // the mask's entry of `owner` says so. The set must be materialized and outlive this.
  void add(ParameterSet& parameters, const Tensor& gradient, int owner, double weight_decay);

  // rates: (blocks) parameter dtype; mask: (owners) i32. Both in device memory.
  void step(const Tensor& rates, const Tensor& mask);

  const std::vector<State>& states() const { return states_; }

 private:
  Context& ctx_;
  std::vector<kernels::AdamBlock> blocks_;
  std::vector<State> states_;
};

}  // namespace cohort::nn
