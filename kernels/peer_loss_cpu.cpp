#include <algorithm>

#include "kernels/base/valid_rows.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/softmax_row.h"
#include "kernels/peer_loss.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kRowsPerChunk = 8;
constexpr std::int64_t kArrays = 5;

struct Sums {
  double value[kMaxMembers];
};
std::size_t sums_bytes(std::int64_t chunks) {
  constexpr std::size_t kAlignment = 64;
  return (static_cast<std::size_t>(chunks) * sizeof(Sums) + kAlignment - 1) / kAlignment * kAlignment;
}

double scale_of(const PeerLossArgs& args) {
  return args.t_squared ? args.temperature * args.temperature : 1.0;
}

template <class T>
class PeerRows {
 public:
  using A = Accumulator<T>;

  PeerRows(const PeerLossArgs& args, std::int64_t valid, A* memory)
      : args_(args),
        classes_(args.shape.classes),
        padded_(padded_classes(classes_)),
        inv_t_(static_cast<A>(1.0 / args.temperature)),
        inv_peers_(A{1} / static_cast<A>(args.shape.members - 1)),
        grad_scale_(valid == 0 ? 0.0 : scale_of(args) / args.temperature / static_cast<double>(valid)),
        mean_(memory),
        q_(memory + padded_),
        log_q_(memory + 2 * padded_),
        s_(memory + 3 * padded_),
        log_s_(memory + 4 * padded_) {}

  void run(int i, std::int64_t b, Sums& sums) {
    const A weight = static_cast<const A*>(args_.weight)[i];
    if (weight == 0) return skip(i, b);
    std::fill_n(mean_, classes_, A{0});
    for (int j = 0; j < args_.shape.members; ++j) {
      if (j == i) continue;
      const T* z = logits(j, b);
#pragma omp simd
      for (std::int64_t c = 0; c < classes_; ++c) mean_[c] += static_cast<A>(z[c]);
    }
#pragma omp simd
    for (std::int64_t c = 0; c < classes_; ++c) mean_[c] *= inv_peers_;
    softmax<A, A>(mean_, classes_, padded_, inv_t_, true, q_, log_q_);
    softmax<T, A>(logits(i, b), classes_, padded_, inv_t_, true, s_, log_s_);
    const A entropy = args_.form == PeerForm::kKl ? A{1} : A{0};
    A value = 0;
#pragma omp simd reduction(+ : value)
    for (std::int64_t c = 0; c < classes_; ++c) value += q_[c] * (entropy * log_q_[c] - log_s_[c]);
    sums.value[i] += static_cast<double>(value);
    if (args_.grad_logits[at(i)] == nullptr) return;
    const A k = static_cast<A>(grad_scale_ * static_cast<double>(weight));
    T* out = grad(i, b);
    if (args_.grad_mode[at(i)] == GradMode::kOverwrite) {
      for (std::int64_t c = 0; c < classes_; ++c) out[c] = static_cast<T>(k * (s_[c] - q_[c]));
    } else {
      for (std::int64_t c = 0; c < classes_; ++c)
        out[c] = static_cast<T>(static_cast<A>(out[c]) + k * (s_[c] - q_[c]));
    }
  }

  void skip(int i, std::int64_t b) const {
    if (args_.grad_logits[at(i)] == nullptr || args_.grad_mode[at(i)] == GradMode::kAccumulate) return;
    std::fill_n(grad(i, b), classes_, T{});
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

  const PeerLossArgs& args_;
  std::int64_t classes_, padded_;
  A inv_t_, inv_peers_;
  double grad_scale_;
  A *mean_, *q_, *log_q_, *s_, *log_s_;
};

template <class T>
void run(CpuStream stream, const PeerLossArgs& args, Workspace workspace) {
  using A = Accumulator<T>;
  const CohortLossShape& shape = args.shape;
  const std::int64_t valid = count_valid(args.valid_rows, shape.rows);
  const std::int64_t chunks = ceil_div(shape.rows, kRowsPerChunk);
  auto* const sums = reinterpret_cast<Sums*>(workspace.data());
  A* const memory = reinterpret_cast<A*>(workspace.data() + sums_bytes(chunks));
  parallel_chunks(stream, chunks, [&](std::int64_t chunk, int thread) {
    PeerRows<T> rows(args, valid, memory + thread * kArrays * padded_classes(shape.classes));
    sums[chunk] = {};
    const std::int64_t end = std::min(shape.rows, (chunk + 1) * kRowsPerChunk);
    for (std::int64_t b = chunk * kRowsPerChunk; b < end; ++b) {
      for (int i = 0; i < shape.members; ++i) {
        if (b < valid) {
          rows.run(i, b, sums[chunk]);
        } else {
          rows.skip(i, b);
        }
      }
    }
  });
  for (int i = 0; i < shape.members; ++i) {
    double value = 0;
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) value += sums[chunk].value[i];
    value *= valid == 0 ? 0.0 : scale_of(args) / static_cast<double>(valid);
    const A weight = static_cast<const A*>(args.weight)[i];
    const auto add = [&](void* to) {
      if (to == nullptr || weight == 0) return;
      A& sum = static_cast<A*>(to)[i];
      sum = static_cast<A>(static_cast<double>(sum) + static_cast<double>(weight) * value);
    };
    add(args.loss);
    add(args.kl);
    if (args.value != nullptr) static_cast<A*>(args.value)[i] = static_cast<A>(value);
  }
}

}  // namespace

std::size_t peer_loss_workspace(CpuStream stream, const CohortLossShape& shape) {
  return sums_bytes(ceil_div(shape.rows, kRowsPerChunk)) +
         static_cast<std::size_t>(num_threads(stream) * kArrays * padded_classes(shape.classes)) *
             size_of(accumulator_of(shape.dtype));
}

void peer_loss(CpuStream stream, const PeerLossArgs& args, Workspace workspace) {
  validate(args);
  check(workspace.size() >= peer_loss_workspace(stream, args.shape), "peer_loss: workspace too small");
  dispatch_float(args.shape.dtype, [&]<class T>(std::type_identity<T>) { run<T>(stream, args, workspace); });
}

}  // namespace cohort::kernels
