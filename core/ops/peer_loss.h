// Every member learns from the mean of the others' logits (formula and contract: kernels/peer_loss.h).
// Terminal: writes the gradients itself and records nothing.
#pragma once

#include <span>

#include "core/context.h"
#include "kernels/peer_loss.h"

namespace cohort::ops {

struct PeerLossInputs {
  std::span<const Tensor> logits = {};  // one (rows, classes) per member
  Tensor weight = {};                   // (members) A
  kernels::PeerForm form = kernels::PeerForm::kKl;
  double temperature = 1;
  bool t_squared = true;
  Tensor valid_rows = {};     // () i32; empty: all
  Tensor loss = {}, kl = {};  // (members) A: added to
};

void peer_loss(Context& ctx, const PeerLossInputs& inputs);

}  // namespace cohort::ops
