#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/base/error.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cohort_loss.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/softmax_row.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kRowsPerChunk = 8;
constexpr std::size_t kAlignment = 64;

constexpr std::size_t align_up(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// What one chunk of rows adds to the values, unweighted.
struct Sums {
  double ce[kMaxMembers];
  double pair[kMaxMembers][kMaxMembers];
  double target[kMaxMembers];
  std::int32_t top1[kMaxMembers];
  std::int32_t top5[kMaxMembers];
};

// Everything that is the same for all rows of one call.
template <class A>
struct Plan {
  int members = 0;
  std::int64_t classes = 0;
  std::int64_t padded = 0;
  std::int64_t valid = 0;
  int mixed = -1;
  bool separate = false;  // softmax_T is not softmax_1
  bool has_target = false;
  bool has_pairs = false;
  A inv_t = 1;
  double inv_rows = 0;
  double scale = 1;  // S
  bool soft[kMaxMembers] = {};
  bool pair[kMaxMembers][kMaxMembers] = {};
  bool target[kMaxMembers] = {};
  double ce_weight[kMaxMembers] = {};
  double kl_weight[kMaxMembers][kMaxMembers] = {};
  double target_weight[kMaxMembers] = {};
  // Weights with everything that multiplies a gradient: 1 / rows and S / T.
  A ce_grad[kMaxMembers] = {};
  A pair_grad[kMaxMembers][kMaxMembers] = {};
  A target_grad[kMaxMembers] = {};
};

template <class A>
Plan<A> make_plan(const CohortLossArgs& args) {
  const CohortLossShape& shape = args.shape;
  Plan<A> plan;
  plan.members = shape.members;
  plan.classes = shape.classes;
  plan.padded = padded_classes(shape.classes);
  plan.valid = count_valid(args.valid_rows, shape.rows);
  if (args.mixed_member != nullptr) plan.mixed = *args.mixed_member;
  plan.separate = args.temperature != 1.0;
  plan.inv_t = static_cast<A>(1.0 / args.temperature);
  plan.inv_rows = plan.valid == 0 ? 0.0 : 1.0 / static_cast<double>(plan.valid);
  plan.scale = args.t_squared ? args.temperature * args.temperature : 1.0;
  const double soft_grad = plan.scale / args.temperature * plan.inv_rows;
  const auto* ce = static_cast<const A*>(args.ce_weight);
  const auto* kl = static_cast<const A*>(args.kl_weight);
  const auto* target = static_cast<const A*>(args.target_weight);
  const bool rule = args.target_rule != TargetRule::kNone;
  plan.has_target = rule && (args.target != nullptr || args.winner != nullptr || args.all_pairs);
  for (int i = 0; i < plan.members; ++i) {
    plan.ce_weight[i] = ce == nullptr ? 1.0 : static_cast<double>(ce[i]);
    plan.ce_grad[i] = static_cast<A>(plan.ce_weight[i] * plan.inv_rows);
    for (int j = 0; j < plan.members; ++j) {
      const double w = kl == nullptr || i == j ? 0.0 : static_cast<double>(kl[i * plan.members + j]);
      plan.kl_weight[i][j] = w;
      plan.pair_grad[i][j] = static_cast<A>(w * soft_grad);
      plan.pair[i][j] = i != j && (w != 0 || args.all_pairs);
      plan.has_pairs = plan.has_pairs || plan.pair[i][j];
      plan.soft[i] = plan.soft[i] || plan.pair[i][j];
      plan.soft[j] = plan.soft[j] || plan.pair[i][j];
    }
    const double e = target == nullptr || !rule ? 0.0 : static_cast<double>(target[i]);
    plan.target_weight[i] = e;
    plan.target_grad[i] = static_cast<A>(e * soft_grad);
    plan.target[i] = rule && (e != 0 || args.all_pairs);
    plan.has_target = plan.has_target || plan.target[i];
    plan.soft[i] = plan.soft[i] || plan.target[i];
  }
  if (plan.has_target && args.target_rule == TargetRule::kNaive) {
    std::fill_n(plan.soft, plan.members, true);  // anyone may be chosen
  }
  return plan;
}

// The scratch of one thread: `padded` numbers per array.
template <class A>
struct Row {
  A* p1[kMaxMembers];         // softmax_1
  A* q[kMaxMembers];          // softmax_T
  A* log_q[kMaxMembers];      // its logarithm
  const A* target = nullptr;  // of this row; null: none
  const A* log_target = nullptr;
  A* own_target = nullptr;
  A* own_log_target = nullptr;
  A* grad = nullptr;
  A ce[kMaxMembers];
  A kl[kMaxMembers][kMaxMembers];

  Row(A* memory, const Plan<A>& plan) {
    const auto next = [&] {
      A* array = memory;
      memory += plan.padded;
      return array;
    };
    for (int m = 0; m < plan.members; ++m) {
      p1[m] = next();
      log_q[m] = next();
      q[m] = plan.separate ? next() : p1[m];
    }
    own_target = next();
    own_log_target = next();
    grad = next();
  }
};

constexpr std::int64_t arrays_per_row(int members) {
  return 3 * members + 3;
}

// sum_c p_c (log_p_c - log_q_c). Logarithms are clamped to finite numbers, so p_c = 0 contributes 0.
template <class A>
A kl_divergence(const A* p, const A* log_p, const A* log_q, std::int64_t padded) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < padded; ++c) sum += p[c] * (log_p[c] - log_q[c]);
  return sum;
}

// Classes that come before `label` when sorted by logit, descending, lower index first.
template <class T>
std::int64_t rank(const T* z, std::int64_t classes, std::int64_t label) {
  using A = Accumulator<T>;
  const A own = static_cast<A>(z[label]);
  std::int32_t before = 0;
#pragma omp simd reduction(+ : before)
  for (std::int64_t c = 0; c < classes; ++c) {
    const A v = static_cast<A>(z[c]);
    before += static_cast<std::int32_t>(v > own || (v == own && c < label));
  }
  return before;
}

template <class T>
class RowLoss {
 public:
  using A = Accumulator<T>;

  RowLoss(const CohortLossArgs& args, const Plan<A>& plan, A* memory, Sums& sums)
      : args_(args), plan_(plan), row_(memory, plan), sums_(sums) {}

  void run(std::int64_t b) {
    for (int m = 0; m < plan_.members; ++m) member(m, b);
    if (plan_.has_target) form_target(b);
    if (plan_.has_pairs || plan_.has_target) divergences();
    for (int m = 0; m < plan_.members; ++m) {
      if (args_.grad_logits[m] != nullptr) gradient(m, b);
    }
    if (args_.target != nullptr) {
      std::memcpy(target_out(b), row_.target, static_cast<std::size_t>(plan_.classes) * sizeof(A));
    }
  }

  // A row that does not count.
  void skip(std::int64_t b) {
    for (int m = 0; m < plan_.members; ++m) {
      if (args_.grad_logits[m] != nullptr && args_.grad_mode[m] == GradMode::kOverwrite) {
        std::fill_n(grad_out(m, b), plan_.classes, T{});
      }
      if (args_.ce_rows != nullptr) ce_row(m, b) = 0;
    }
    if (args_.target != nullptr) std::fill_n(target_out(b), plan_.classes, A{0});
    if (args_.winner != nullptr) args_.winner[b] = -1;
  }

 private:
  static constexpr A kNaN = std::numeric_limits<A>::quiet_NaN();

  const T* logits(int m, std::int64_t b) const {
    return static_cast<const T*>(args_.logits[m]) + b * plan_.classes;
  }
  T* grad_out(int m, std::int64_t b) const {
    return static_cast<T*>(args_.grad_logits[m]) + b * plan_.classes;
  }
  A* target_out(std::int64_t b) const { return static_cast<A*>(args_.target) + b * plan_.classes; }
  A& ce_row(int m, std::int64_t b) const { return static_cast<A*>(args_.ce_rows)[m * args_.shape.rows + b]; }
  bool in_range(std::int64_t label) const { return label >= 0 && label < plan_.classes; }
  std::int64_t main_label(int m, std::int64_t b) const {
    return m == plan_.mixed ? args_.mixed_labels[b * kMixedLabels] : args_.labels[b];
  }
  const std::int32_t* mixed_labels(std::int64_t b) const { return args_.mixed_labels + b * kMixedLabels; }
  const A* mixed_weights(std::int64_t b) const {
    return static_cast<const A*>(args_.mixed_weights) + b * kMixedLabels;
  }

  // Softmaxes, cross-entropy and rank of the label.
  void member(int m, std::int64_t b) {
    const T* z = logits(m, b);
    const bool finish = !plan_.separate && plan_.soft[m];
    A* log_p1 = plan_.separate ? row_.grad : row_.log_q[m];  // grad is free until the gradients
    const A offset = softmax<T, A>(z, plan_.classes, plan_.padded, A{1}, finish, row_.p1[m], log_p1);
    const A ce = cross_entropy(m, b, log_p1, offset);
    row_.ce[m] = ce;
    sums_.ce[m] += static_cast<double>(ce);
    if (args_.ce_rows != nullptr) ce_row(m, b) = ce;
    if (plan_.separate && plan_.soft[m]) {
      softmax<T, A>(z, plan_.classes, plan_.padded, plan_.inv_t, true, row_.q[m], row_.log_q[m]);
    }
    const std::int64_t label = main_label(m, b);
    const bool ranked = args_.correct_top1 != nullptr || args_.correct_top5 != nullptr;
    if (ranked && in_range(label) && !std::isnan(log_p1[0] + offset)) {
      const std::int64_t before = rank(z, plan_.classes, label);
      sums_.top1[m] += before < 1;
      sums_.top5[m] += before < 5;
    }
  }

  A cross_entropy(int m, std::int64_t b, const A* log_p1, A offset) const {
    if (m != plan_.mixed) {
      const std::int64_t label = args_.labels[b];
      return in_range(label) ? -(log_p1[label] + offset) : kNaN;
    }
    A ce = 0;
    for (int l = 0; l < kMixedLabels; ++l) {
      const A weight = mixed_weights(b)[l];
      const std::int64_t label = mixed_labels(b)[l];
      if (weight != 0) ce += in_range(label) ? -weight * (log_p1[label] + offset) : kNaN;
    }
    return ce;
  }

  void form_target(std::int64_t b) {
    row_.target = row_.own_target;
    row_.log_target = row_.own_log_target;
    int winner = -1;
    switch (args_.target_rule) {
      case TargetRule::kGiven:
        read_target(b);
        break;
      case TargetRule::kNaive:
        for (int m = 0; m < plan_.members; ++m) {
          if (std::isfinite(row_.ce[m]) && (winner < 0 || row_.ce[m] < row_.ce[winner])) winner = m;
        }
        if (winner < 0) {
          fill_target(kNaN);
        } else {
          row_.target = row_.q[winner];
          row_.log_target = row_.log_q[winner];
        }
        break;
      case TargetRule::kMinLogit:
        min_logit(b);
        break;
      case TargetRule::kNone:
        break;
    }
    if (args_.winner != nullptr) args_.winner[b] = winner;
  }

  void fill_target(A value) {
    std::fill_n(row_.own_target, plan_.padded, value);
    std::fill_n(row_.own_log_target, plan_.padded, value);
  }

  void read_target(std::int64_t b) {
    const A* given = static_cast<const A*>(args_.given_target) + b * plan_.classes;
    for (std::int64_t c = 0; c < plan_.padded; ++c) {
      const A p = c < plan_.classes ? given[c] : A{0};
      row_.own_target[c] = p;
      row_.own_log_target[c] = p == 0 ? A{0} : std::log(p);
    }
  }

  void min_logit(std::int64_t b) {
    constexpr A kMax = std::numeric_limits<A>::max();
    A* z_t = row_.grad;
    std::fill_n(z_t, plan_.classes, kMax);
    for (int m = 0; m < plan_.members; ++m) {
      const std::int64_t label = main_label(m, b);
      if (std::isnan(row_.ce[m]) || !in_range(label)) {
        fill_target(kNaN);
        return;
      }
      const T* z = logits(m, b);
      const A own = static_cast<A>(z[label]);
#pragma omp simd
      for (std::int64_t c = 0; c < plan_.classes; ++c) {
        const A v = static_cast<A>(z[c]) - own;
        z_t[c] = v < z_t[c] ? v : z_t[c];
      }
    }
    softmax<A, A>(z_t, plan_.classes, plan_.padded, plan_.inv_t, true, row_.own_target, row_.own_log_target);
  }

  void divergences() {
    for (int i = 0; i < plan_.members; ++i) {
      for (int j = 0; j < plan_.members; ++j) {
        if (!plan_.pair[i][j]) continue;
        row_.kl[i][j] = kl_divergence(row_.q[j], row_.log_q[j], row_.log_q[i], plan_.padded);
        sums_.pair[i][j] += static_cast<double>(row_.kl[i][j]);
      }
      if (plan_.target[i]) {
        sums_.target[i] +=
            static_cast<double>(kl_divergence(row_.target, row_.log_target, row_.log_q[i], plan_.padded));
      }
    }
  }

  void gradient(int i, std::int64_t b) {
    ce_gradient(i, b);
    for (int j = 0; j < plan_.members; ++j) {
      if (plan_.kl_weight[i][j] != 0) pull(plan_.pair_grad[i][j], row_.q[i], row_.q[j]);
    }
    if (plan_.target_weight[i] != 0) pull(plan_.target_grad[i], row_.q[i], row_.target);
    if (args_.attached) {
      for (int k = 0; k < plan_.members; ++k) {
        if (plan_.kl_weight[k][i] != 0) teach(plan_.pair_grad[k][i], i, k);
      }
    }
    T* out = grad_out(i, b);
    const A* grad = row_.grad;
    if (args_.grad_mode[i] == GradMode::kOverwrite) {
      for (std::int64_t c = 0; c < plan_.classes; ++c) out[c] = static_cast<T>(grad[c]);
    } else {
      for (std::int64_t c = 0; c < plan_.classes; ++c)
        out[c] = static_cast<T>(static_cast<A>(out[c]) + grad[c]);
    }
  }

  void ce_gradient(int i, std::int64_t b) {
    const A k = plan_.ce_grad[i];
    const A* p = row_.p1[i];
    A* grad = row_.grad;
    if (k == 0) {
      std::fill_n(grad, plan_.padded, A{0});
      return;
    }
    if (i != plan_.mixed) {
#pragma omp simd
      for (std::int64_t c = 0; c < plan_.padded; ++c) grad[c] = k * p[c];
      const std::int64_t label = args_.labels[b];
      if (in_range(label)) {
        grad[label] = k * (p[label] - 1);
      } else {
        std::fill_n(grad, plan_.padded, kNaN);
      }
      return;
    }
    A total = 0;
    for (int l = 0; l < kMixedLabels; ++l) total += mixed_weights(b)[l];
#pragma omp simd
    for (std::int64_t c = 0; c < plan_.padded; ++c) grad[c] = k * (total * p[c]);
    for (int l = 0; l < kMixedLabels; ++l) {
      const A weight = mixed_weights(b)[l];
      const std::int64_t label = mixed_labels(b)[l];
      if (weight == 0) continue;
      if (in_range(label)) {
        grad[label] -= k * weight;
      } else {
        std::fill_n(grad, plan_.padded, kNaN);
      }
    }
  }

  // grad += k (q - target): zero when both have the same bits, which (sum of weights) q - ... would not be.
  void pull(A k, const A* q, const A* target) {
    A* grad = row_.grad;
#pragma omp simd
    for (std::int64_t c = 0; c < plan_.padded; ++c) grad[c] += k * (q[c] - target[c]);
  }

  // The attached option: member i as the teacher of k.
  void teach(A k_grad, int i, int k) {
    const A* q = row_.q[i];
    const A* log_q = row_.log_q[i];
    const A* log_student = row_.log_q[k];
    const A kl = row_.kl[k][i];
    A* grad = row_.grad;
#pragma omp simd
    for (std::int64_t c = 0; c < plan_.padded; ++c) {
      grad[c] += k_grad * q[c] * ((log_q[c] - log_student[c]) - kl);
    }
  }

  const CohortLossArgs& args_;
  const Plan<A>& plan_;
  Row<A> row_;
  Sums& sums_;
};

template <class A>
void write(void* out, std::int64_t i, double value) {
  if (out != nullptr) static_cast<A*>(out)[i] = static_cast<A>(value);
}

// Sums the chunks in order and writes the values.
template <class A>
void finish(const CohortLossArgs& args, const Plan<A>& plan, const Sums* sums, std::int64_t chunks) {
  const auto mean = [&](auto value_of) {
    double total = 0;
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) total += value_of(sums[chunk]);
    return total * plan.inv_rows;
  };
  for (int i = 0; i < plan.members; ++i) {
    const double ce = mean([i](const Sums& s) { return s.ce[i]; });
    double kl = 0;
    for (int j = 0; j < plan.members; ++j) {
      double pair = 0;
      if (plan.pair[i][j]) pair = plan.scale * mean([i, j](const Sums& s) { return s.pair[i][j]; });
      if (plan.kl_weight[i][j] != 0) kl += plan.kl_weight[i][j] * pair;
      write<A>(args.kl_pair, i * plan.members + j, pair);
    }
    double target = 0;
    if (plan.target[i]) target = plan.scale * mean([i](const Sums& s) { return s.target[i]; });
    if (plan.target_weight[i] != 0) kl += plan.target_weight[i] * target;
    write<A>(args.target_kl, i, target);
    write<A>(args.ce, i, ce);
    write<A>(args.kl, i, kl);
    write<A>(args.loss, i, plan.ce_weight[i] == 0 ? kl : plan.ce_weight[i] * ce + kl);
    std::int32_t top1 = 0;
    std::int32_t top5 = 0;
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      top1 += sums[chunk].top1[i];
      top5 += sums[chunk].top5[i];
    }
    if (args.correct_top1 != nullptr) args.correct_top1[i] = top1;
    if (args.correct_top5 != nullptr) args.correct_top5[i] = top5;
  }
}

void validate(const CohortLossArgs& args, std::size_t needed, Workspace workspace) {
  const CohortLossShape& s = args.shape;
  check(s.members >= 1 && s.members <= kMaxMembers, "cohort_loss: members must be in [1, 16]");
  check(s.rows >= 0 && s.classes >= 1, "cohort_loss: rows must not be negative, classes must be positive");
  check(args.temperature > 0, "cohort_loss: temperature must be positive");
  check(args.labels != nullptr, "cohort_loss: no labels");
  check(args.mixed_member == nullptr || (args.mixed_labels != nullptr && args.mixed_weights != nullptr),
        "cohort_loss: mixed_member without mixed labels and weights");
  check(args.target_rule != TargetRule::kGiven || args.given_target != nullptr,
        "cohort_loss: no given target");
  check(args.target == nullptr || args.target_rule != TargetRule::kNone,
        "cohort_loss: no rule for the target");
  check(args.decision.kl_weight == nullptr || (args.kl_weight == nullptr && args.ce != nullptr),
        "cohort_loss: a decision writes W itself, and needs ce");
  check(workspace.size() >= needed, "cohort_loss: workspace too small");
}

template <class T>
void run(CpuStream stream, const CohortLossArgs& args, Workspace workspace) {
  using A = Accumulator<T>;
  const CohortLossShape& shape = args.shape;
  const Plan<A> plan = make_plan<A>(args);
  const std::int64_t chunks = ceil_div(shape.rows, kRowsPerChunk);
  auto* sums = reinterpret_cast<Sums*>(workspace.data());
  std::byte* memory = workspace.data() + align_up(static_cast<std::size_t>(chunks) * sizeof(Sums));
  const std::int64_t stride = arrays_per_row(shape.members) * plan.padded;
  parallel_chunks(stream, chunks, [&](std::int64_t chunk, int thread) {
    sums[chunk] = Sums{};
    RowLoss<T> loss(args, plan, reinterpret_cast<A*>(memory) + thread * stride, sums[chunk]);
    const std::int64_t begin = chunk * kRowsPerChunk;
    const std::int64_t end = std::min(shape.rows, begin + kRowsPerChunk);
    for (std::int64_t b = begin; b < end; ++b) {
      if (b < plan.valid) {
        loss.run(b);
      } else {
        loss.skip(b);
      }
    }
  });
  finish(args, plan, sums, chunks);
}

}  // namespace

std::size_t cohort_loss_workspace(CpuStream stream, const CohortLossShape& shape) {
  const auto chunks = static_cast<std::size_t>(ceil_div(shape.rows, kRowsPerChunk));
  const auto row = static_cast<std::size_t>(arrays_per_row(shape.members) * padded_classes(shape.classes)) *
                   size_of(accumulator_of(shape.dtype));
  return align_up(chunks * sizeof(Sums)) + static_cast<std::size_t>(num_threads(stream)) * row;
}

void cohort_loss(CpuStream stream, const CohortLossArgs& args, Workspace workspace) {
  validate(args, cohort_loss_workspace(stream, args.shape), workspace);
  if (args.decision.kl_weight != nullptr) return cohort_loss_in_steps(stream, args, workspace);
  dispatch_float(args.shape.dtype, [&]<class T>(std::type_identity<T>) { run<T>(stream, args, workspace); });
}

}  // namespace cohort::kernels
