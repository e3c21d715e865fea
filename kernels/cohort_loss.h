// The losses of a whole cohort and their gradients, from one reading of every member's logits:
//
//   L_i = ce_i CE_i + sum_j W[i][j] S KL_T(z_j -> z_i) + e_i S KL_T(target -> z_i)
//
//   CE_i          = mean_b -ln softmax_1(z_i[b])[y_b]
//   KL_T(p -> z)  = mean_b sum_c p_c (ln p_c - ln softmax_T(z[b])_c),  0 ln 0 = 0
//   softmax_T(z)  = softmax(z / T),  q_k = softmax_T(z_k);   S = T^2 when t_squared, else 1
//
//   dL_i/dz_i = [ce_i (softmax_1(z_i) - Y) + sum_j W[i][j] S/T (q_i - q_j) + e_i S/T (q_i - target)] / rows
//
//   attached adds to dL/dz_j of L = sum_i L_i the way through the teaching side (the target stays detached):
//       sum_i W[i][j] S/T q_j (ln q_j - ln q_i - KL_T(z_j -> z_i)[b]) / rows
//
// Shapes: logits[k], grad_logits[k] (rows, classes), row-major, dtype f32, bf16 or f64; labels (rows) i32.
// "A" below is accumulator_of(dtype), the dtype of every pointer that is a void*. No alignment is assumed. An
// output that is null is not written; null ce_weight means 1, null kl_weight and target_weight mean 0.
//
// Contract:
//   - Outputs alias nothing. Deterministic: rows in fixed chunks, chunks summed in order, values summed in
//     double. Capture safe: weights, labels, valid_rows and mixed_member are read on the device only.
//     Workspace: cohort_loss_workspace.
//   - A weight of exactly 0 contributes exactly nothing: its KL is not computed, so a member whose logits are
//     not finite touches only those who learn from it, and with W[i] = 0 and e_i = 0 the results of member i
//     have the bits of a run of that member alone. Two members with the same bits have KL = +0, gradient 0.
//   - Only rows [0, valid_rows) count; other rows get gradient 0 (kOverwrite) or keep theirs (kAccumulate),
//     ce_rows 0, target 0 and winner -1. valid_rows = 0 gives values 0.
//   - A label outside [0, classes) is never used as an index: CE of that row and its gradient are NaN and it
//     counts as wrong. Callers validate labels where they enter.
//   - (z - max) / T is clamped to the lowest finite number: logits of +-3e38 give finite losses; NaN and +inf
//     logits give NaN. Attached targets are detached whatever the target rule.
//   - KL that is not needed (weight 0) is reported as 0 unless all_pairs.
//
// Bytes moved: members * rows * classes * size_of(dtype) read (plus rows * classes * sizeof(A) for kGiven)
// and as much written for the gradients; the rest is O(members * rows). One exp per logit, two where T != 1.
//
// Method: per row, all members' softmaxes stay in cache (on chip); the pair terms are products of those.
// Mutual learning: Zhang et al., CVPR 2018. Shared targets: Guo et al., "Online knowledge distillation via
// collaborative learning", CVPR 2020 (eq. 4 and MinLogit). Competitive distillation is the same with W chosen
// per batch (kernels/loss_select.h).
//
// With `decision` the batch chooses its W: between the cross-entropies and what depends on W, loss_select's
// rule is applied to ce. Every output has the bits of cohort_loss_in_steps(), three calls that read the
// logits twice, and it is these three that run where the CUDA backend cannot hold the batch on chip.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"
#include "kernels/loss_select.h"

namespace cohort::kernels {

constexpr int kMaxMembers = 16;
constexpr int kMixedLabels = 4;

enum class TargetRule : std::uint8_t {
  kNone,
  kGiven,  // probabilities (rows, classes), already at temperature T
  kNaive,  // softmax_T of the member whose CE is smallest on that row; ties: lowest index; NaN or inf: never;
           // none: NaN
  kMinLogit  // softmax_T(min_i (z_i - z_i[y])); a NaN of any member is a NaN of the target
};

struct CohortLossShape {
  DType dtype = DType::f32;
  int members = 0;
  std::int64_t rows = 0;
  std::int64_t classes = 0;
};

// The fields of kernels/loss_select.h that the losses do not know themselves. Wanted where kl_weight is
// given; needs CohortLossArgs::ce, and ce_rows for row_winner.
struct CohortDecision {
  SelectRule rule = SelectRule::kArgmin;
  double kl = 1;
  double feature = 0;
  const std::int32_t* masked_member = nullptr;

  std::int32_t* teacher = nullptr;
  std::int32_t* row_winner = nullptr;  // (rows)
  void* kl_weight = nullptr;           // (members, members) A: the W that holds, written in full
  void* feature_weight = nullptr;      // (members, members) A
};

struct CohortLossArgs {
  CohortLossShape shape;
  std::array<const void*, kMaxMembers> logits{};
  std::array<void*, kMaxMembers> grad_logits{};  // null: values only
  // One mode for all members: each gets kOverwrite or kAccumulate.
  std::array<GradMode, kMaxMembers> grad_mode{};

  const std::int32_t* labels = nullptr;  // (rows)
  // The member whose images were mixed: CE = sum_l mixed_weights[b][l] CE(mixed_labels[b][l]); a weight of 0
  // ignores its label. Label 0 is the main one (accuracy, kMinLogit).
  const std::int32_t* mixed_labels = nullptr;  // (rows, 4)
  const void* mixed_weights = nullptr;         // (rows, 4) A
  const std::int32_t* mixed_member = nullptr;  // scalar, -1: nobody; null: nobody

  double temperature = 1;
  bool t_squared = true;
  bool attached = false;
  bool all_pairs = false;  // also report kl_pair and target_kl where the weight is 0; changes no other output
  TargetRule target_rule = TargetRule::kNone;
  const void* given_target = nullptr;  // (rows, classes) A, kGiven only

  const void* ce_weight = nullptr;  // (members) A
  // (members, members) A: W[i][j], j teaches i; the diagonal is ignored. Null with a decision.
  const void* kl_weight = nullptr;
  CohortDecision decision{};
  const void* target_weight = nullptr;       // (members) A
  const std::int32_t* valid_rows = nullptr;  // scalar; null: all

  void* loss = nullptr;            // (members) A
  void* ce = nullptr;              // (members) A
  void* kl = nullptr;              // (members) A: the weighted KL part, target term included
  void* kl_pair = nullptr;         // (members, members) A: S KL_T(z_j -> z_i) at [i][j], unweighted
  void* target_kl = nullptr;       // (members) A: S KL_T(target -> z_i), unweighted
  void* ce_rows = nullptr;         // (members, rows) A
  void* target = nullptr;          // (rows, classes) A: the shared soft target
  std::int32_t* winner = nullptr;  // (rows): the member chosen by kNaive, else -1
  std::int32_t* correct_top1 =
      nullptr;  // (members): rows whose first largest logit is the label's; NaN: wrong
  std::int32_t* correct_top5 = nullptr;  // (members): rows with fewer than 5 classes before the label's
};

// By the formula above.
inline Traffic traffic(const CohortLossArgs& a) {
  const CohortLossShape& s = a.shape;
  Traffic moved{bytes_of(s.dtype, s.members * s.rows * s.classes) + 4 * s.rows};
  if (a.target_rule == TargetRule::kGiven)
    moved.bytes += bytes_of(accumulator_of(s.dtype), s.rows * s.classes);
  for (int k = 0; k < s.members; ++k) {
    const auto at = static_cast<std::size_t>(k);
    if (a.grad_logits[at] != nullptr) moved.bytes += written(s.dtype, s.rows * s.classes, a.grad_mode[at]);
  }
  return moved;  // a decision adds O(members^2)
}

// The CPU's scratch grows with the threads of the stream.
std::size_t cohort_loss_workspace(CpuStream stream, const CohortLossShape& shape);
std::size_t cohort_loss_workspace(CudaStream stream, const CohortLossShape& shape);

void cohort_loss(CpuStream stream, const CohortLossArgs& args, Workspace workspace);
void cohort_loss(CudaStream stream, const CohortLossArgs& args, Workspace workspace);

// What a decision means: the cross-entropies alone, the choice, the losses.
template <class Stream>
void cohort_loss_in_steps(Stream stream, const CohortLossArgs& args, Workspace workspace) {
  const CohortDecision& d = args.decision;
  cohort_loss(stream,
              {.shape = args.shape,
               .logits = args.logits,
               .labels = args.labels,
               .mixed_labels = args.mixed_labels,
               .mixed_weights = args.mixed_weights,
               .mixed_member = args.mixed_member,
               .valid_rows = args.valid_rows,
               .ce = args.ce,
               .ce_rows = d.row_winner == nullptr ? nullptr : args.ce_rows},
              workspace);
  loss_select(stream, {.dtype = accumulator_of(args.shape.dtype),
                       .members = args.shape.members,
                       .rows = args.shape.rows,
                       .rule = d.rule,
                       .kl = d.kl,
                       .feature = d.feature,
                       .ce = args.ce,
                       .ce_rows = args.ce_rows,
                       .masked_member = d.masked_member,
                       .valid_rows = args.valid_rows,
                       .teacher = d.teacher,
                       .row_winner = d.row_winner,
                       .kl_weight = d.kl_weight,
                       .feature_weight = d.feature_weight});
  CohortLossArgs losses = args;
  losses.kl_weight = d.kl_weight;
  losses.decision = {};
  cohort_loss(stream, losses, workspace);
}

}  // namespace cohort::kernels
