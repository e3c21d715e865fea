// The three terms of asymmetric decision-making (ADM), for teacher t and student s with last maps F_t, F_s
// and classifiers FC_t, FC_s:
//
//   S     = cosine of F_t and F_s over channels at every position, detached (kernels/pixel_cosine.h)
//   a_co  = (1 + S) / (1 + mean S + 1e-5),  a_di = (1 - S) / (mean (1 - S) + 1e-5)
//   z_co  = FC_s(GAP(a_co relu(F_s))),      z_di = FC_t(GAP(a_di relu(F_t)))
//   L_s  += alpha L_co + gamma L_feat,      L_t += beta L_di
//
//   L_co: CE(z_co, y), or T^2 KL_T(FC_t(GAP(a_co relu(F_t))) -> z_co)
//   L_di: CE(z_di, y), or T^2 KL_T((1 - d) Y + d q -> z_di), q = softmax(z_t) of the sample an epoch ago, d
//         from 0.2 in the first epoch to 0.6 in the last; 0 where the sample has not been seen before. q is
//         from a table that every step fills, or what the teacher as it was at the end of the epoch before,
//         in evaluation mode, says of this step's image (StepView::former)
//   L_feat: sum over stages of 2^-i MSE(F_s, F_t), i = 1 for the last one; or the last stage alone, weight 1.
//           Stages are aligned from the end by equal size; the last pair always counts. The student's map
//           goes through a 1x1 adapter where channels differ, the larger map is average-pooled. Or instead of
//           the maps their ReLU, or their channels divided by their lengths (kernels/channel_normalise.h), or
//           the squares without their largest third (kernels/trimmed_l2.h).
//
// Where the last maps differ in shape, S is that of the adapted, smaller maps, and each network's weight map
// is brought to its own size (nearest) with mean 1. Several teachers: a student averages L_co and L_feat over
// them. Several students: a teacher averages L_di over them. A frozen teacher has no L_di, nor has one
// that the method pauses (SwitOKD) in a step in which it does.
#pragma once

#include <memory>

#include "distill/method.h"

namespace cohort::distill {

const std::vector<OptionSpec>& adm_options();

// `base` with the terms added to its losses.
std::unique_ptr<Method> with_adm_terms(std::unique_ptr<Method> base, const MethodOptions& options);

}  // namespace cohort::distill
