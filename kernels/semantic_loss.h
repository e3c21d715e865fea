// Distance of two networks' class semantics, and its gradient. The semantics of class c are the gradient g_c
// of the cross-entropy by the class's row of the classifier; compared are the outer products g_c g_c', rows
// at length 1. Row i of that product is sign(g_ci) u, u = g_c / |g_c|, so nothing of size d x d is needed:
//
//   value  = sum_c (k_s + k_t - 2 m <u_s, u_t>) / (classes d),  k: entries of g_c that are not 0,
//            m = sum_i sign(g_s,ci) sign(g_t,ci)
//   loss  += weight value
//   grad_c = -weight 2 m (u_t - u_s <u_s, u_t>) / (classes d |g_s,c|)     d value / d g_s, almost everywhere
//
// Shapes: student, teacher, grad_student (classes, d), row-major, f32 or f64; weight, value, loss: device
//   scalars of the same type.
// Contract: outputs alias nothing; grad_student, value and loss may be null. A row of zeros has u = 0 and
//   gradient 0. Lengths are taken of g_c over its largest entry, so that no square underflows. Deterministic:
//   a class in a fixed order, classes in fixed chunks, summed in double. Capture safe. Workspace:
//   semantic_loss_workspace(classes).
// Bytes: both matrices once and again (from the caches), the gradient once.
// Source: semantic distance of DisWOT (Dong et al., CVPR 2023), with the rows of the outer products in closed
//   form.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/error.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct SemanticLossArgs {
  DType dtype = DType::f32;
  std::int64_t classes = 0;
  std::int64_t channels = 0;  // d
  const void* student = nullptr;
  const void* teacher = nullptr;
  const void* weight = nullptr;

  void* grad_student = nullptr;
  void* value = nullptr;
  void* loss = nullptr;  // added to
};

inline void validate(const SemanticLossArgs& args) {
  check(args.classes >= 1 && args.channels >= 1, "semantic_loss: classes and channels are positive");
  check(args.student != nullptr && args.teacher != nullptr && args.weight != nullptr,
        "semantic_loss: an operand is missing");
}

// By the formulas above.
inline Traffic traffic(const SemanticLossArgs& a) {
  const std::int64_t matrix = bytes_of(a.dtype, a.classes * a.channels);
  return {(a.grad_student == nullptr ? 2 : 3) * matrix, 6 * matrix};
}

std::size_t semantic_loss_workspace(CpuStream stream, std::int64_t classes);
std::size_t semantic_loss_workspace(CudaStream stream, std::int64_t classes);

void semantic_loss(CpuStream stream, const SemanticLossArgs& args, Workspace workspace);
void semantic_loss(CudaStream stream, const SemanticLossArgs& args, Workspace workspace);

}  // namespace cohort::kernels
