#include <algorithm>
#include <limits>

#include "kernels/base/error.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/softmax_row.h"
#include "kernels/weighted_target.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kRowsPerChunk = 8;

template <class T>
class Mixer {
 public:
  using A = Accumulator<T>;

  Mixer(const WeightedTargetArgs& args, A* memory)
      : args_(args),
        classes_(args.shape.classes),
        padded_(padded_classes(classes_)),
        inv_t_(static_cast<A>(1.0 / args.temperature)),
        sum_(memory),
        p_(memory + padded_),
        log_p_(memory + 2 * padded_) {}

  void run(std::int64_t b) {
    const A* w = static_cast<const A*>(args_.weights) + (args_.per_row ? b * args_.shape.members : 0);
    std::fill_n(sum_, classes_, A{0});
    A* out = static_cast<A*>(args_.target) + b * classes_;
    if (args_.rule == MixRule::kLogits) {
      for (int m = 0; m < args_.shape.members; ++m) add(logits(m, b), w[m]);
      softmax<A, A>(sum_, classes_, padded_, inv_t_, false, p_, log_p_);
      std::copy_n(p_, classes_, out);
      return;
    }
    for (int m = 0; m < args_.shape.members; ++m) {
      softmax<T, A>(logits(m, b), classes_, padded_, inv_t_, false, p_, log_p_);
      add(p_, w[m]);
    }
    A total = 0;
#pragma omp simd reduction(+ : total)
    for (std::int64_t c = 0; c < classes_; ++c) {
      sum_[c] = sum_[c] < 0 ? A{0} : sum_[c];
      total += sum_[c];
    }
    for (std::int64_t c = 0; c < classes_; ++c) out[c] = sum_[c] / total;
  }

 private:
  const T* logits(int m, std::int64_t b) const {
    return static_cast<const T*>(args_.logits[static_cast<std::size_t>(m)]) + b * classes_;
  }
  template <class V>
  void add(const V* values, A weight) {
#pragma omp simd
    for (std::int64_t c = 0; c < classes_; ++c) sum_[c] += weight * static_cast<A>(values[c]);
  }

  const WeightedTargetArgs& args_;
  std::int64_t classes_, padded_;
  A inv_t_;
  A *sum_, *p_, *log_p_;
};

template <class T>
void run(CpuStream stream, const WeightedTargetArgs& args, Workspace workspace) {
  using A = Accumulator<T>;
  const CohortLossShape& shape = args.shape;
  const std::int64_t valid = count_valid(args.valid_rows, shape.rows);
  A* memory = reinterpret_cast<A*>(workspace.data());
  parallel_chunks(stream, ceil_div(shape.rows, kRowsPerChunk), [&](std::int64_t chunk, int thread) {
    Mixer<T> mixer(args, memory + thread * 3 * padded_classes(shape.classes));
    const std::int64_t end = std::min(shape.rows, (chunk + 1) * kRowsPerChunk);
    for (std::int64_t b = chunk * kRowsPerChunk; b < end; ++b) {
      if (b < valid) {
        mixer.run(b);
      } else {
        std::fill_n(static_cast<A*>(args.target) + b * shape.classes, shape.classes, A{0});
      }
    }
  });
}

}  // namespace

std::size_t weighted_target_workspace(CpuStream stream, const CohortLossShape& shape) {
  return static_cast<std::size_t>(num_threads(stream) * 3 * padded_classes(shape.classes)) *
         size_of(accumulator_of(shape.dtype));
}

void weighted_target(CpuStream stream, const WeightedTargetArgs& args, Workspace workspace) {
  const CohortLossShape& s = args.shape;
  check(s.members >= 1 && s.members <= kMaxMembers, "weighted_target: members must be in [1, 16]");
  check(s.rows >= 0 && s.classes >= 1,
        "weighted_target: rows must not be negative, classes must be positive");
  check(args.temperature > 0, "weighted_target: temperature must be positive");
  check(args.weights != nullptr && args.target != nullptr, "weighted_target: no weights or no target");
  check(workspace.size() >= weighted_target_workspace(stream, s), "weighted_target: workspace too small");
  dispatch_float(s.dtype, [&]<class T>(std::type_identity<T>) { run<T>(stream, args, workspace); });
}

}  // namespace cohort::kernels
