// The stage of a step that perturbs one member's images (kernels/perturb.h), as a method asked for it.
#pragma once

#include <vector>

#include "core/context.h"
#include "distill/method.h"
#include "kernels/perturb.h"

namespace cohort::distill {

class PerturbationStage {
 public:
  PerturbationStage(Context& ctx, const PerturbationChoice& choice, int image_size);

  // Rewrites the batch of the member drawn for this step, and fills the view's mixed labels. `batches`: one
  // for every member, (B, H, W, C); `sources`: the same images, of each member in another place; `step`: (1)
  // i32.
  void apply(Context& ctx, StepView& view, const std::vector<Tensor>& batches,
             const std::vector<Tensor>& sources, const Tensor& step,
             const kernels::Normalisation& normalisation);

  // () i32: the member whose images were perturbed in the last step, -1 for none, and how.
  const Tensor& member() const { return member_; }
  const Tensor& operation() const { return operation_; }

 private:
  kernels::PerturbOptions options_;
  Tensor member_, operation_, moved_member_;  // () i32
};

}  // namespace cohort::distill
