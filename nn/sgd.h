// The optimiser of the whole cohort: one kernel call steps every network (kernels/sgd.h).
#pragma once

#include <cstdint>
#include <vector>

#include "core/context.h"
#include "core/parameter.h"
#include "kernels/finite_guard.h"
#include "kernels/sgd.h"

namespace cohort::nn {

struct SgdOptions {
  double momentum = 0.9;
  bool nesterov = true;
};

class Sgd {
 public:
  Sgd(Context& ctx, int members, const SgdOptions& options);

  // Adds a block that steps with member's learning rate and mask. The set must be materialized and outlive
  // this.
  void add(ParameterSet& parameters, int member, double weight_decay);

  // A gradient with which another optimiser updates member, after all blocks were added: where it is not
  // finite, member does not step here either.
  void watch(const Tensor& gradient, int member);

  // Learning rates of the steps from now on, one per block: (blocks) f32, device memory that a step may
  // write.
  const Tensor& rates() const { return rates_; }
  // A row of that tensor from one rate per member.
  std::vector<float> rates_of(const std::vector<double>& members) const;
  // Members that may be stepped at all (0: frozen).
  void set_allowed(const std::vector<std::int32_t>& allowed);

  // Steps every allowed member whose loss (M, parameter dtype) and gradients are finite. `allowed` (M) i32,
  // device memory, takes the place of set_allowed() for this step; empty: that one. Returns which members
  // were stepped: (M) i32, in the step arena.
  Tensor step(const Tensor& loss, const Tensor& allowed = {});

 private:
  Context& ctx_;
  SgdOptions options_;
  std::vector<kernels::SgdMember> blocks_;
  std::vector<kernels::GradientBlock> gradients_;
  std::vector<int> owners_;
  int members_;
  Tensor rates_;       // (blocks) f32
  Tensor block_mask_;  // (blocks) i32
  Tensor allowed_;     // (M) i32
};

}  // namespace cohort::nn
