#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/base/loss_value.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/softmax_row.h"
#include "kernels/gated_ensemble.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kRowsPerChunk = 8;
constexpr std::int64_t kArrays = 3;

std::size_t sums_bytes(std::int64_t chunks) {
  constexpr std::size_t kAlignment = 64;
  return (static_cast<std::size_t>(chunks) * sizeof(double) + kAlignment - 1) / kAlignment * kAlignment;
}

template <class T>
class GatedRows {
 public:
  using A = Accumulator<T>;

  GatedRows(const GatedEnsembleArgs& args, std::int64_t valid, A* memory)
      : args_(args),
        members_(args.shape.members),
        classes_(args.shape.classes),
        padded_(padded_classes(classes_)),
        inv_rows_(static_cast<A>(valid == 0 ? 0.0 : 1.0 / static_cast<double>(valid))),
        sum_(memory),
        p_(memory + padded_),
        log_p_(memory + 2 * padded_) {}

  // The row's cross-entropy.
  double run(std::int64_t b) {
    weigh(b);
    std::fill_n(sum_, classes_, A{0});
    for (int m = 0; m < members_; ++m) {
      const T* z = logits(m, b);
#pragma omp simd
      for (std::int64_t c = 0; c < classes_; ++c) sum_[c] += gate_[m] * static_cast<A>(z[c]);
    }
    softmax<A, A>(sum_, classes_, padded_, A{1}, true, p_, log_p_);
    const std::int64_t label = args_.labels[b];
    const bool known = label >= 0 && label < classes_;
    const A ce = known ? -log_p_[label] : std::numeric_limits<A>::quiet_NaN();
    if (known) {
      p_[label] -= 1;
    } else {
      std::fill_n(p_, classes_, std::numeric_limits<A>::quiet_NaN());
    }
    gradients(b);
    if (args_.target != nullptr) {
      softmax<A, A>(sum_, classes_, padded_, static_cast<A>(1.0 / args_.temperature), false, p_, log_p_);
      std::copy_n(p_, classes_, static_cast<A*>(args_.target) + b * classes_);
    }
    return static_cast<double>(ce);
  }

  void skip(std::int64_t b) {
    for (int m = 0; m < members_; ++m) {
      if (args_.grad_logits[at(m)] != nullptr && args_.grad_mode[at(m)] == GradMode::kOverwrite)
        std::fill_n(grad(m, b), classes_, T{});
    }
    if (args_.target != nullptr) std::fill_n(static_cast<A*>(args_.target) + b * classes_, classes_, A{0});
    if (args_.scores_mode == GradMode::kOverwrite) fill(args_.grad_scores, b);
    fill(args_.grad_gate, b);
    fill(args_.gate, b);
  }

 private:
  static std::size_t at(int m) {
    return static_cast<std::size_t>(m);
  }
  const T* logits(int m, std::int64_t b) const {
    return static_cast<const T*>(args_.logits[at(m)]) + b * classes_;
  }
  T* grad(int m, std::int64_t b) const {
    return static_cast<T*>(args_.grad_logits[at(m)]) + b * classes_;
  }
  A* of_row(void* values, std::int64_t b) const {
    return static_cast<A*>(values) + b * members_;
  }
  void fill(void* values, std::int64_t b) const {
    if (values != nullptr) std::fill_n(of_row(values, b), members_, A{0});
  }

  void weigh(std::int64_t b) {
    const A* scores = static_cast<const A*>(args_.scores) + b * members_;
    A max = -std::numeric_limits<A>::infinity(), total = 0;
    for (int m = 0; m < members_; ++m) max = scores[m] > max ? scores[m] : max;
    for (int m = 0; m < members_; ++m) total += gate_[m] = std::exp(scores[m] - max);
    for (int m = 0; m < members_; ++m) gate_[m] /= total;
    if (args_.gate != nullptr) std::copy_n(gate_, members_, of_row(args_.gate, b));
  }

  // p_ is softmax - Y.
  void gradients(std::int64_t b) {
    A of_gate[kMaxMembers];
    A mean = 0;
    for (int m = 0; m < members_; ++m) {
      const T* z = logits(m, b);
      A dot = 0;
#pragma omp simd reduction(+ : dot)
      for (std::int64_t c = 0; c < classes_; ++c) dot += p_[c] * static_cast<A>(z[c]);
      of_gate[m] = inv_rows_ * dot;
      mean += gate_[m] * of_gate[m];
      if (args_.grad_logits[at(m)] == nullptr) continue;
      const A k = inv_rows_ * gate_[m];
      T* out = grad(m, b);
      if (args_.grad_mode[at(m)] == GradMode::kOverwrite) {
        for (std::int64_t c = 0; c < classes_; ++c) out[c] = static_cast<T>(k * p_[c]);
      } else {
        for (std::int64_t c = 0; c < classes_; ++c)
          out[c] = static_cast<T>(static_cast<A>(out[c]) + k * p_[c]);
      }
    }
    if (args_.grad_gate != nullptr) std::copy_n(of_gate, members_, of_row(args_.grad_gate, b));
    if (args_.grad_scores == nullptr) return;
    A* out = of_row(args_.grad_scores, b);
    for (int m = 0; m < members_; ++m) {
      const A g = gate_[m] * (of_gate[m] - mean);
      out[m] = args_.scores_mode == GradMode::kOverwrite ? g : out[m] + g;
    }
  }

  const GatedEnsembleArgs& args_;
  int members_;
  std::int64_t classes_, padded_;
  A inv_rows_;
  A *sum_, *p_, *log_p_;
  A gate_[kMaxMembers] = {};
};

template <class T>
void run(CpuStream stream, const GatedEnsembleArgs& args, Workspace workspace) {
  using A = Accumulator<T>;
  const CohortLossShape& shape = args.shape;
  const std::int64_t valid = count_valid(args.valid_rows, shape.rows);
  const std::int64_t chunks = ceil_div(shape.rows, kRowsPerChunk);
  auto* const sums = reinterpret_cast<double*>(workspace.data());
  A* const memory = reinterpret_cast<A*>(workspace.data() + sums_bytes(chunks));
  parallel_chunks(stream, chunks, [&](std::int64_t chunk, int thread) {
    GatedRows<T> rows(args, valid, memory + thread * kArrays * padded_classes(shape.classes));
    sums[chunk] = 0;
    const std::int64_t end = std::min(shape.rows, (chunk + 1) * kRowsPerChunk);
    for (std::int64_t b = chunk * kRowsPerChunk; b < end; ++b) {
      if (b < valid) {
        sums[chunk] += rows.run(b);
      } else {
        rows.skip(b);
      }
    }
  });
  double value = 0;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) value += sums[chunk];
  if (valid > 0) value /= static_cast<double>(valid);
  finish_loss<A>(value, /*weight=*/nullptr, args.value, args.loss);
}

}  // namespace

std::size_t gated_ensemble_workspace(CpuStream stream, const CohortLossShape& shape) {
  return sums_bytes(ceil_div(shape.rows, kRowsPerChunk)) +
         static_cast<std::size_t>(num_threads(stream) * kArrays * padded_classes(shape.classes)) *
             size_of(accumulator_of(shape.dtype));
}

void gated_ensemble(CpuStream stream, const GatedEnsembleArgs& args, Workspace workspace) {
  validate(args);
  check(workspace.size() >= gated_ensemble_workspace(stream, args.shape),
        "gated_ensemble: workspace too small");
  dispatch_float(args.shape.dtype, [&]<class T>(std::type_identity<T>) { run<T>(stream, args, workspace); });
}

}  // namespace cohort::kernels
