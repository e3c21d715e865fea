// Minimises a convex function on the simplex { alpha_i >= 0, sum alpha_i = 1 }: pairwise Frank-Wolfe from the
// best vertex, with an exact line search. One text for both backends: everything it decides follows from the
// numbers that the problem returns, so a team of threads that all see the same numbers runs it in step.
//
// A problem P has
//   int members()
//   double vertex(i)                  the function at alpha = e_i
//   void start(i)                     alpha = e_i
//   void differentiate()              fills gradient(i) = d f / d alpha_i at alpha
//   double gradient(i), alpha(i)
//   Slope slope(to, from, step)       first and second derivative along e_to - e_from at alpha + step of it
//   void move(to, from, step)         alpha += step (e_to - e_from); all of alpha_from becomes exactly 0
#pragma once

#include "kernels/base/host_device.h"

namespace cohort::kernels {

struct Slope {
  double first, second;
};

inline constexpr int kSimplexSteps = 64;
inline constexpr double kSimplexGap = 1e-6;

// The step in [0, limit] with the smallest value, where the first derivative is negative at 0: Newton,
// guarded by bisection (each step at most half as long as the last one, or half of what is left).
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <class P>
COHORT_HOST_DEVICE double line_minimum(P& problem, int to, int from, double limit) {
  constexpr double kTolerance = 0x1p-42;
  double low = 0;
  double high = limit;
  double at = limit;
  double last = 2 * limit;
  for (int i = 0; i < 64; ++i) {
    const Slope s = problem.slope(to, from, at);
    if (at == limit && s.first <= 0) return limit;
    if (s.first < 0) {
      low = at;
    } else {
      high = at;
    }
    double next = s.second > 0 ? at - s.first / s.second : low;
    const double length = next < at ? at - next : next - at;
    if (!(next > low && next < high && 2 * length <= last)) next = 0.5 * (low + high);
    last = next < at ? at - next : next - at;
    at = next;
    if (!(last > kTolerance)) break;
  }
  return at;
}

// False where the function is not finite at a vertex: alpha then means nothing.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <class P>
COHORT_HOST_DEVICE bool minimise_on_simplex(P& problem) {
  const int members = problem.members();
  int best = 0;
  double least = 0;
  for (int i = 0; i < members; ++i) {
    const double value = problem.vertex(i);
    if (!(value - value == 0)) return false;
    if (i == 0 || value < least) {
      best = i;
      least = value;
    }
  }
  problem.start(best);
  // Two members have one line: its minimum is the answer, whatever the gap.
  for (int step = 0; step < (members == 2 ? 1 : kSimplexSteps); ++step) {
    problem.differentiate();
    int to = 0;
    int from = best;
    double mean = 0;
    for (int i = 0; i < members; ++i) {
      const double g = problem.gradient(i);
      if (g < problem.gradient(to)) to = i;
      if (problem.alpha(from) == 0 || (problem.alpha(i) > 0 && g > problem.gradient(from))) from = i;
      mean += problem.alpha(i) * g;
    }
    if (!(problem.gradient(to) < problem.gradient(from))) return true;
    if (members > 2 && mean - problem.gradient(to) < kSimplexGap) return true;
    problem.move(to, from, line_minimum(problem, to, from, problem.alpha(from)));
  }
  return true;
}

}  // namespace cohort::kernels
