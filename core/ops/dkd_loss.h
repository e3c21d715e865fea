// Decoupled distillation from a fixed teacher, added to a student's loss (formula and contract:
// kernels/dkd_loss.h). Terminal: writes the student's gradient itself and records nothing.
#pragma once

#include "core/context.h"
#include "kernels/dkd_loss.h"

namespace cohort::ops {

struct DkdLossInputs {
  Tensor student = {}, teacher = {};  // (rows, classes)
  Tensor labels = {};                 // (rows) i32
  Tensor valid_rows = {};             // () i32; empty: all
  Tensor epoch = {};                  // (1) i32, from 0; empty: no warm-up
  double temperature = 4, alpha = 1, beta = 8, warmup = 0;
  Tensor loss = {}, kl = {};  // () A: added to
};

void dkd_loss(Context& ctx, const DkdLossInputs& inputs);

}  // namespace cohort::ops
