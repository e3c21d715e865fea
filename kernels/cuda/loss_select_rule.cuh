// The rules of kernels/loss_select.h on the device: for the kernel that decides alone, and for the cohort
// loss that decides on its way.
#pragma once

#include "kernels/cuda/simt.cuh"
#include "kernels/loss_select.h"

namespace cohort::kernels {

// Lowest index of the smallest finite value among value_of(0), value_of(1), ...; -1: none is finite.
template <class F>
__device__ inline int finite_argmin(int count, F&& value_of) {
  int best = -1;
  decltype(value_of(0)) least = 0;
  for (int k = 0; k < count; ++k) {
    const auto v = value_of(k);
    if (v - v != 0 || (best >= 0 && !(v < least))) continue;
    best = k;
    least = v;
  }
  return best;
}

// Who teaches whom, given the members' losses ce[].
template <class A>
struct TeachingRule {
  SelectRule rule;
  double kl, feature;
  int masked;  // -1: nobody
  const A* ce;
  int members, teacher;

  __device__ TeachingRule(SelectRule select, double kl_scale, double feature_scale,
                          const std::int32_t* masked_member, const A* losses, int num_members)
      : rule(select),
        kl(kl_scale),
        feature(feature_scale),
        masked(masked_member == nullptr ? -1 : *masked_member),
        ce(losses),
        members(num_members),
        teacher(finite_argmin(num_members, [losses](int k) { return losses[k]; })) {}

  // W[i][j] / kl: 1 / (number of i's teachers) where j teaches i, else 0.
  __device__ double share(int i, int j) const {
    if (rule == SelectRule::kArgmin) return j == teacher && i != j ? 1 : 0;
    int better = 0;
    for (int k = 0; k < members; ++k) better += teaches(k, i) ? 1 : 0;
    return teaches(j, i) ? 1.0 / better : 0;
  }
  __device__ A kl_weight(int i, int j) const { return static_cast<A>(kl * share(i, j)); }
  __device__ A feature_weight(int i, int j) const {
    return i == masked || j == masked ? A{0} : static_cast<A>(feature * share(i, j));
  }

 private:
  __device__ bool teaches(int j, int i) const { return ce[j] - ce[j] == 0 && ce[j] < ce[i]; }
};

}  // namespace cohort::kernels
