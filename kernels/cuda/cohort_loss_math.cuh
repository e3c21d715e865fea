// What the row (cohort_loss_row.cuh) and the launch (kernels/cohort_loss_cuda.cu) of the cohort loss share.
#pragma once

#include "kernels/cohort_loss.h"
#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/vec.cuh"

namespace cohort::kernels::loss {

inline constexpr int kRowsInBlock = 4;  // teams of one warp: rows that a block has in work together

// One rounding each. Where a product feeds a difference that must vanish for equal members, a fused
// multiply-add would leave the rounding error of the other product.
__device__ inline float mul_rn(float a, float b) {
  return __fmul_rn(a, b);
}
__device__ inline double mul_rn(double a, double b) {
  return __dmul_rn(a, b);
}
__device__ inline float sub_rn(float a, float b) {
  return __fsub_rn(a, b);
}
__device__ inline double sub_rn(double a, double b) {
  return __dsub_rn(a, b);
}
__device__ inline float fma_rn(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
__device__ inline double fma_rn(double a, double b, double c) {
  return __fma_rn(a, b, c);
}
__device__ inline float exp_of(float x) {
  return expf(x);
}
__device__ inline double exp_of(double x) {
  return exp(x);
}
__device__ inline float log_of(float x) {
  return logf(x);
}
__device__ inline double log_of(double x) {
  return log(x);
}

template <class A>
inline constexpr A kLargest = static_cast<A>(3.402823466e38F);
template <>
inline constexpr double kLargest<double> = 1.7976931348623157e308;

template <class A>
__device__ inline A infinity() {
  return static_cast<A>(__int_as_float(0x7f800000));
}
template <class A>
__device__ inline A not_a_number() {
  return static_cast<A>(__int_as_float(0x7fc00000));
}
template <class A>
__device__ inline bool is_nan(A x) {
  return x != x;
}
template <class A>
__device__ inline bool is_finite(A x) {
  return x <= kLargest<A> && x >= -kLargest<A>;
}
template <class A>
__device__ inline A clamp_low(A x) {
  return x < -kLargest<A> ? -kLargest<A> : x;  // NaN stays
}

// 16 bytes of T as they are in memory: what one instruction moves.
template <class T>
struct alignas(16) Group {
  static constexpr int kSize = 16 / static_cast<int>(sizeof(T));
  T v[kSize];

  __device__ static Group load(const T* p) {
    return __builtin_bit_cast(Group, *reinterpret_cast<const uint4*>(p));
  }
  __device__ void store(T* p) const { *reinterpret_cast<uint4*>(p) = __builtin_bit_cast(uint4, *this); }
  // The first n elements, at any address; the others are `fill`.
  __device__ static Group load_part(const T* p, int n, T fill) {
    Group r;
#pragma unroll
    for (int e = 0; e < kSize; ++e) r.v[e] = e < n ? p[e] : fill;
    return r;
  }
};

// kN numbers of A at a 16-byte aligned address; kN is a multiple of Group<A>::kSize.
template <class A, int kN>
__device__ inline void store_numbers(A* to, const A (&numbers)[kN]) {
#pragma unroll
  for (int e = 0; e < kN; e += Group<A>::kSize) {
    Group<A> group;
#pragma unroll
    for (int i = 0; i < Group<A>::kSize; ++i) group.v[i] = numbers[e + i];
    group.store(to + e);
  }
}
template <class A, int kN>
__device__ inline void load_numbers(const A* from, A (&numbers)[kN]) {
#pragma unroll
  for (int e = 0; e < kN; e += Group<A>::kSize) {
    const auto group = Group<A>::load(from + e);
#pragma unroll
    for (int i = 0; i < Group<A>::kSize; ++i) numbers[e + i] = group.v[i];
  }
}

// Numbers that a team of kTeam threads reduces, in its shared memory: each warp puts its own, and after a
// barrier of the team anybody gets the team's, added in the order of the warps.
template <class A, int kTeam>
struct Partials {
  A* memory;  // [warp of the team][size]
  int members;

  __host__ __device__ static int size(int members) { return members * (members + 5) + 2; }

  __device__ int max(int m) const { return m; }
  __device__ int sum(int m) const { return members + m; }
  __device__ int soft(int m) const { return 2 * members + m; }
  __device__ int rank(int m) const { return 3 * members + m; }
  __device__ int target(int m) const { return 4 * members + m; }
  __device__ int pair(int i, int j) const { return 5 * members + i * members + j; }
  __device__ int target_max() const { return size(members) - 2; }
  __device__ int target_sum() const { return size(members) - 1; }

  __device__ void put_sum(int lane, int n, A value) const { put(lane, n, warp_sum(value)); }
  __device__ void put_max(int lane, int n, A value) const { put(lane, n, warp_max(value)); }
  __device__ A get_sum(int n) const { return get<SumOp>(n); }
  __device__ A get_max(int n) const { return get<MaxOp>(n); }

 private:
  __device__ void put(int lane, int n, A value) const {
    if (lane % kWarp == 0) memory[lane / kWarp * size(members) + n] = value;
  }
  template <class Op>
  __device__ A get(int n) const {
    A value = memory[n];
#pragma unroll
    for (int w = 1; w < kTeam / kWarp; ++w) {
      value = Op::template apply<A>(value, memory[w * size(members) + n]);
    }
    return value;
  }
};

// What is the same for all rows: weights with everything that multiplies a gradient, and who needs what as
// bit masks.
template <class A>
struct Plan {
  A ce_grad[kMaxMembers];
  A target_grad[kMaxMembers];
  A pair_grad[kMaxMembers * kMaxMembers];  // [i * kMaxMembers + j]
  unsigned students[kMaxMembers];          // bit i: KL(j -> i) is wanted
  unsigned pull[kMaxMembers];              // bit j: W[i][j] != 0
  unsigned teach[kMaxMembers];             // bit k: W[k][i] != 0
  unsigned pairs;                          // bit j: somebody wants KL(j -> .)
  unsigned target;                         // bit i: KL(target -> i) is wanted
  unsigned target_pull;                    // bit i: e_i != 0
  A inv_t;
};

// What the whole team must know of one member's row.
template <class A>
struct Member {
  A own, max;            // logit of the label, largest logit
  A inv_sum;             // 1 / sum of softmax_1
  A inv_soft, log_soft;  // of softmax_T
  A ce;
  int label;  // -1: out of range
};

// The shape of a launch. Offsets and sizes in bytes of dynamic shared memory.
struct Layout {
  int teams = 1;  // per block
  int iterations =
      1;           // a block has iterations * kRowsInBlock rows (teams of one warp), else `iterations` rows
  int padded = 0;  // classes, rounded up to whole groups
  int num_values = 0;  // summed over the batch: value_* below
  bool staged = true;  // the logits stay in shared memory; else every pass reads them again
  bool kept = true;    // so do softmax_T of everybody and the target; else they are computed again
  unsigned first_team = 0, team = 0;  // offset of the first team's memory, size of one
  // Within a team's: members, partial sums of its warps, divergences, logits, softmaxes.
  unsigned partial = 0, kl = 0, stage = 0, soft = 0;
};

// Values summed over the batch.
__host__ __device__ inline int value_target(int members, int i) {
  return members + i;
}
__host__ __device__ inline int value_top1(int members, int i) {
  return 2 * members + i;
}
__host__ __device__ inline int value_top5(int members, int i) {
  return 3 * members + i;
}
__host__ __device__ inline int value_pair(int members, int pair) {
  return 4 * members + pair;
}
__host__ __device__ inline int count_values(int members) {
  return members * (members + 4);
}

}  // namespace cohort::kernels::loss
