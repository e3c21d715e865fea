// The decision of kernels/switch_rule.h from the batch's distances: one text for both backends.
#pragma once

#include <cmath>

#include "kernels/base/error.h"
#include "kernels/base/host_device.h"
#include "kernels/switch_rule.h"

namespace cohort::kernels {

// Means over the batch of |p_i - Y|_1, and of |p_i - p_j|_1 at [i + j - 1], i < j.
struct SwitchDistances {
  double label[kMaxSwitchMembers];
  double pair[kMaxSwitchMembers];

  COHORT_HOST_DEVICE double between(int i, int j) const { return pair[i + j - 1]; }
};

inline void validate(const SwitchRuleArgs& args) {
  const CohortLossShape& s = args.shape;
  check(s.members == 3 || (s.members == 2 && args.roles == SwitchRoles::kOneTeacher),
        "switch_rule: two networks, or three");
  check(s.rows >= 0 && s.classes >= 1, "switch_rule: rows must not be negative, classes must be positive");
  check(args.tau > 0, "switch_rule: tau must be positive");
  check(args.labels != nullptr, "switch_rule: no labels");
  check(args.ce_weight != nullptr && args.kl_weight != nullptr && args.step_mask != nullptr &&
            args.mode != nullptr,
        "switch_rule: an output is missing");
}

// Whether `teacher` is paused for `student`. The threshold's factor comes from the distances of
// `factor_teacher` and `factor_student`, which are those two but in the published code.
COHORT_HOST_DEVICE inline bool is_expert(const SwitchDistances& d, bool guard, int teacher, int student,
                                         int factor_teacher, int factor_student) {
  const double sum = d.label[factor_student] + d.label[factor_teacher];
  const double factor = std::exp(sum > 0 ? -d.label[factor_teacher] / sum : -0.5);
  const double threshold = d.label[student] - factor * d.label[teacher];
  return d.between(teacher, student) > threshold && (!guard || d.label[teacher] < d.label[student]);
}

template <class A>
struct SwitchOutputs {
  A* ce;
  A* kl;
  std::int32_t *mask, *mode;
  int members;

  COHORT_HOST_DEVICE void teach(int learner, int from, bool on) const {
    kl[learner * members + from] = on ? A{1} : A{0};
  }
  // Every member learns from the labels and from everybody else.
  COHORT_HOST_DEVICE void start() const {
    for (int i = 0; i < members; ++i) {
      ce[i] = 1;
      mask[i] = 1;
      mode[i] = -1;
      for (int j = 0; j < members; ++j) teach(i, j, i != j);
    }
  }
  COHORT_HOST_DEVICE void set_teacher(int teacher, bool expert, bool step) const {
    ce[teacher] = expert ? A{0} : A{1};
    mask[teacher] = step ? 1 : 0;
    mode[teacher] = expert ? 1 : 0;
  }
};

template <class A>
COHORT_HOST_DEVICE void decide(const SwitchRuleArgs& args, const SwitchDistances& d) {
  const SwitchOutputs<A> out{static_cast<A*>(args.ce_weight), static_cast<A*>(args.kl_weight), args.step_mask,
                             args.mode, args.shape.members};
  out.start();
  if (args.roles == SwitchRoles::kTwoTeachers) {
    for (int x = 0; x < 2; ++x) {
      const bool expert = is_expert(d, args.guard, x, 2, args.code_compat ? 0 : x, 2);
      out.set_teacher(x, expert, !expert);
      out.teach(x, 2, !expert);
      out.teach(x, 1 - x, !expert);
    }
    return;
  }
  bool all = true;
  for (int i = 1; i < args.shape.members; ++i) {
    const int factor_student = args.code_compat && args.shape.members == 3 ? 2 : i;
    const bool expert = is_expert(d, args.guard, 0, i, 0, factor_student);
    out.teach(0, i, !expert);
    all = all && expert;
  }
  out.set_teacher(0, all, !all || (args.code_compat && args.shape.members == 3));
}

}  // namespace cohort::kernels
