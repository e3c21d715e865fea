#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/cpu/parallel.h"
#include "kernels/sgd.h"

namespace cohort::kernels {
namespace {

// Elements per chunk: 5 streams of 64 KiB stay inside a 1 MiB L2 cache and keep a 100k network on several
// threads.
constexpr std::int64_t kGrain = 1 << 14;

template <class T>
struct Rule {
  T learning_rate, momentum, weight_decay;
  bool nesterov;
};

// One range of one member, all of it decayed or none of it.
template <bool kMomentum, bool kNesterov, bool kDecay, class T>
void update(const Rule<T>& rule, const SgdMember& member, std::int64_t begin, std::int64_t end) {
  T* const p = static_cast<T*>(member.parameter);
  const T* const gradient = static_cast<const T*>(member.gradient);
  T* const v = static_cast<T*>(member.momentum);
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) {
    T g = gradient[i];
    if constexpr (kDecay) g += rule.weight_decay * p[i];
    if constexpr (kMomentum) {
      const T velocity = rule.momentum * v[i] + g;
      v[i] = velocity;
      g = kNesterov ? g + rule.momentum * velocity : velocity;
    }
    p[i] -= rule.learning_rate * g;
  }
  if (member.shadow == nullptr) return;
  bf16* const shadow = member.shadow;
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) shadow[i] = bf16(p[i]);  // p is still in the L1 or L2 cache
}

template <bool kDecay, class T>
void update(const Rule<T>& rule, const SgdMember& member, std::int64_t begin, std::int64_t end) {
  if (begin >= end) return;
  if (rule.momentum == T{0}) return update<false, false, kDecay>(rule, member, begin, end);
  if (rule.nesterov) return update<true, true, kDecay>(rule, member, begin, end);
  update<true, false, kDecay>(rule, member, begin, end);
}

template <class T>
void sgd(CpuStream stream, const SgdArgs& args) {
  std::int64_t num_chunks = 0;
  for (const SgdMember& member : args.members) num_chunks += ceil_div(member.count, kGrain);
  parallel_chunks(stream, num_chunks, [&](std::int64_t chunk, int) {
    std::size_t m = 0;  // at most a few dozen members: a scan costs nothing
    while (chunk >= ceil_div(args.members[m].count, kGrain)) {
      chunk -= ceil_div(args.members[m].count, kGrain);
      ++m;
    }
    if (args.step_mask != nullptr && args.step_mask[m] == 0) return;
    const SgdMember& member = args.members[m];
    const Rule<T> rule{static_cast<T>(args.learning_rate[m]), static_cast<T>(args.momentum),
                       static_cast<T>(member.weight_decay), args.nesterov};
    const std::int64_t begin = chunk * kGrain;
    const std::int64_t end = std::min(member.count, begin + kGrain);
    const std::int64_t decayed = rule.weight_decay == T{0} ? 0
                                 : member.num_decayed < 0  ? member.count
                                                           : member.num_decayed;
    const std::int64_t middle = std::clamp(decayed, begin, end);
    update<true>(rule, member, begin, middle);
    update<false>(rule, member, middle, end);
  });
}

}  // namespace

void sgd(CpuStream stream, const SgdArgs& args) {
  check(args.dtype == DType::f32 || args.dtype == DType::f64, "sgd: parameters are f32 or f64");
  if (args.dtype == DType::f64) return sgd<double>(stream, args);
  sgd<float>(stream, args);
}

}  // namespace cohort::kernels
