// What decoupled distillation needs to know of a row beside its classes, and what follows from it: one text
// for both backends (kernels/dkd_loss.h).
#pragma once

#include <cmath>

#include "kernels/base/error.h"
#include "kernels/base/host_device.h"
#include "kernels/dkd_loss.h"

namespace cohort::kernels {

// One network's row: ln of the sum of e^x over the classes other than y, and the two-way split at y.
template <class A>
struct DkdSide {
  A log_others;  // of sum_{c != y} e^x_c
  A own;         // b = softmax(x)[y]
  A others;      // 1 - b, not by subtraction
  A log_own, log_rest;

  // x_y, and the largest of the others with their sum: sum_{c != y} e^(x_c - max).
  COHORT_HOST_DEVICE static DkdSide make(A x_own, A max, A sum) {
    DkdSide side;
    side.log_others = max + std::log(sum);
    const A high = x_own > side.log_others ? x_own : side.log_others;
    const A low = x_own > side.log_others ? side.log_others : x_own;
    const A all = high + std::log1p(std::exp(low - high));
    constexpr A kLeast = static_cast<A>(-27.631021115928547);  // ln 1e-12
    const A log_own = x_own - all;
    const A log_rest = side.log_others - all;
    side.own = std::exp(log_own);
    side.others = std::exp(log_rest);
    side.log_own = log_own < kLeast ? kLeast : log_own;
    side.log_rest = log_rest < kLeast ? kLeast : log_rest;
    return side;
  }

  COHORT_HOST_DEVICE A log_q(A x) const {
    constexpr A kLowest =
        sizeof(A) == 8 ? static_cast<A>(-1.7976931348623157e308) : static_cast<A>(-3.402823466e38);
    const A log = x - log_others;
    return log < kLowest ? kLowest : log;
  }
};

// KL of the two-way split, without T^2.
template <class A>
COHORT_HOST_DEVICE A dkd_target_term(const DkdSide<A>& t, const DkdSide<A>& s) {
  return t.own * (t.log_own - s.log_own) + t.others * (t.log_rest - s.log_rest);
}

COHORT_HOST_DEVICE inline double dkd_factor(const DkdLossArgs& args) {
  if (args.epoch == nullptr || args.warmup <= 0) return 1;
  const double factor = (static_cast<double>(*args.epoch) + 1) / args.warmup;
  return factor < 1 ? factor : 1;
}

// From the sums over `valid` rows, without T^2, to everything that is reported.
template <class A>
COHORT_HOST_DEVICE void dkd_finish(const DkdLossArgs& args, double target_sum, double other_sum,
                                   std::int64_t valid) {
  const double scale = valid == 0 ? 0 : args.temperature * args.temperature / static_cast<double>(valid);
  const double tckd = scale * target_sum;
  const double nckd = scale * other_sum;
  const double value = dkd_factor(args) * (args.alpha * tckd + args.beta * nckd);
  const auto add = [value](void* to) {
    if (to != nullptr)
      *static_cast<A*>(to) = static_cast<A>(static_cast<double>(*static_cast<A*>(to)) + value);
  };
  add(args.loss);
  add(args.kl);
  if (args.tckd != nullptr) *static_cast<A*>(args.tckd) = static_cast<A>(tckd);
  if (args.nckd != nullptr) *static_cast<A*>(args.nckd) = static_cast<A>(nckd);
}

inline void validate(const DkdLossArgs& args) {
  check(args.rows >= 0 && args.classes >= 2, "dkd_loss: rows must not be negative, classes at least 2");
  check(args.temperature > 0, "dkd_loss: temperature must be positive");
  check(args.student != nullptr && args.teacher != nullptr && args.labels != nullptr,
        "dkd_loss: student, teacher or labels are missing");
}

}  // namespace cohort::kernels
