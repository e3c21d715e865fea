// The second update of a step, by Adam after the members' SGD (AdamUpdates in distill/method.h): of the
// networks, by the gradient of a backward pass of its own where the method wants that, and of parts of the
// method's own.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "distill/method.h"
#include "nn/adam.h"
#include "nn/sgd.h"

namespace cohort::distill {

class SecondUpdate {
 public:
  // `networks`: of the members; null: it is frozen. Tells `sgd`, which has all its blocks, what it steps
  // with: a step with a gradient that is not finite is nobody's.
  SecondUpdate(Context& ctx, Method& method, const std::vector<models::Network*>& networks, nn::Sgd& sgd);

  // On the branch of `member`, after its backward pass.
  void backward(StepView& view, int member);
  // After SGD, on the main branch. mask: (members) i32, who was stepped.
  void step(const StepView& view, const Tensor& mask);

  // What a checkpoint holds of `member`.
  std::vector<std::pair<std::string, Tensor>> state(int member) const;
  // The gradient that Adam steps member's network with: of its leading parameters, in the order of its block.
  const Tensor& gradient(int member) const { return gradients_[static_cast<std::size_t>(member)]; }

 private:
  Context& ctx_;
  Method& method_;
  std::vector<models::Network*> networks_;
  bool separate_;
  std::vector<Tensor> blocks_;     // per member where its second pass writes; empty unless there is one
  std::vector<Tensor> gradients_;  // per member
  Tensor rates_, factors_;         // (Adam's blocks), (epochs)
  nn::Adam adam_;
};

}  // namespace cohort::distill
