#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/base/error.h"
#include "kernels/base/simplex_search.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cpu/parallel.h"
#include "kernels/simplex_fit.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kRowsPerChunk = 8;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// One row's contributions, at any weights. `p`: scratch of (classes).
template <class T>
struct FitRow {
  const SimplexFitArgs& args;
  std::int64_t b;
  double* p;

  std::int64_t classes() const { return args.shape.classes; }
  const T* logits(int m) const {
    return static_cast<const T*>(args.logits[static_cast<std::size_t>(m)]) + b * classes();
  }
  bool labelled() const { return args.labels[b] >= 0 && args.labels[b] < classes(); }

  // p = softmax(p); returns ln of its normaliser, beside the largest entry.
  double soften() const {
    const double max = *std::max_element(p, p + classes());
    double sum = 0;
    for (std::int64_t c = 0; c < classes(); ++c) sum += p[c] = std::exp(p[c] - max);
    for (std::int64_t c = 0; c < classes(); ++c) p[c] /= sum;
    return max + std::log(sum);
  }

  double cross_entropy(int m) const {
    if (!labelled()) return kNaN;
    for (std::int64_t c = 0; c < classes(); ++c) p[c] = static_cast<double>(logits(m)[c]);
    return soften() - static_cast<double>(logits(m)[args.labels[b]]);
  }

  template <class Weight>
  void mix(Weight&& weight) const {
    std::fill_n(p, classes(), 0.0);
    for (int m = 0; m < args.shape.members; ++m) {
      const double w = weight(m);
      const T* z = logits(m);
#pragma omp simd
      for (std::int64_t c = 0; c < classes(); ++c) p[c] += w * static_cast<double>(z[c]);
    }
    soften();
  }

  double gradient(int m) const {
    const T* z = logits(m);
    double sum = 0;
    for (std::int64_t c = 0; c < classes(); ++c) sum += p[c] * static_cast<double>(z[c]);
    return sum - static_cast<double>(z[args.labels[b]]);
  }

  Slope slope(int to, int from) const {
    const T *x = logits(to), *y = logits(from);
    double first = 0;
    double second = 0;
    for (std::int64_t c = 0; c < classes(); ++c) {
      const double d = static_cast<double>(x[c]) - static_cast<double>(y[c]);
      first += p[c] * d;
      second += p[c] * d * d;
    }
    const std::int64_t label = args.labels[b];
    return {first - (static_cast<double>(x[label]) - static_cast<double>(y[label])), second - first * first};
  }
};

// What a search over one row and one over all rows share: alpha and the gradient.
struct Weights {
  double alpha_[kMaxMembers] = {};
  double gradient_[kMaxMembers] = {};

  double alpha(int i) const { return alpha_[i]; }
  double gradient(int i) const { return gradient_[i]; }
  void start(int i) {
    std::fill_n(alpha_, kMaxMembers, 0.0);
    alpha_[i] = 1;
  }
  void move(int to, int from, double step) {
    alpha_[to] += step;
    alpha_[from] = step == alpha_[from] ? 0 : alpha_[from] - step;
  }
  auto at(int to, int from, double step) const {
    return
        [this, to, from, step](int m) { return alpha_[m] + (m == to ? step : 0) - (m == from ? step : 0); };
  }
};

template <class T>
struct SampleProblem : Weights {
  FitRow<T> row;

  explicit SampleProblem(const FitRow<T>& r) : row(r) {}
  int members() const { return row.args.shape.members; }
  double vertex(int i) const { return row.cross_entropy(i); }
  void differentiate() {
    row.mix([this](int m) { return alpha_[m]; });
    for (int i = 0; i < members(); ++i) gradient_[i] = row.gradient(i);
  }
  Slope slope(int to, int from, double step) const {
    row.mix(at(to, from, step));
    return row.slope(to, from);
  }
};

// Sums over rows: each row's numbers first, then their sum in order.
template <class T>
struct BatchProblem : Weights {
  CpuStream stream;
  const SimplexFitArgs& args;
  std::int64_t valid;
  double* scratch;  // (threads, classes)
  double* rows;     // (valid, members or 2)

  BatchProblem(CpuStream s, const SimplexFitArgs& a, std::int64_t valid_rows, double* threads, double* values)
      : stream(s), args(a), valid(valid_rows), scratch(threads), rows(values) {}
  int members() const { return args.shape.members; }

  // f(row, its numbers), then the mean of number i.
  template <class F>
  void each(std::int64_t width, F&& f) const {
    parallel_chunks(stream, ceil_div(valid, kRowsPerChunk), [&](std::int64_t chunk, int thread) {
      const std::int64_t end = std::min(valid, (chunk + 1) * kRowsPerChunk);
      for (std::int64_t b = chunk * kRowsPerChunk; b < end; ++b) {
        f(FitRow<T>{args, b, scratch + thread * args.shape.classes}, rows + b * width);
      }
    });
  }
  double mean(std::int64_t width, std::int64_t i) const {
    double sum = 0;
    for (std::int64_t b = 0; b < valid; ++b) sum += rows[b * width + i];
    return valid == 0 ? 0 : sum / static_cast<double>(valid);
  }

  double vertex(int i) const {
    each(1, [&](const FitRow<T>& row, double* out) { *out = row.cross_entropy(i); });
    return mean(1, 0);
  }
  void differentiate() {
    each(members(), [&](const FitRow<T>& row, double* out) {
      row.mix([this](int m) { return alpha_[m]; });
      for (int i = 0; i < members(); ++i) out[i] = row.gradient(i);
    });
    for (int i = 0; i < members(); ++i) gradient_[i] = mean(members(), i);
  }
  Slope slope(int to, int from, double step) const {
    each(2, [&](const FitRow<T>& row, double* out) {
      row.mix(at(to, from, step));
      const Slope s = row.slope(to, from);
      out[0] = s.first;
      out[1] = s.second;
    });
    return {mean(2, 0), mean(2, 1)};
  }
};

template <class A>
void write(const Weights& found, bool finite, int members, A* out) {
  for (int m = 0; m < members; ++m) out[m] = static_cast<A>(finite ? found.alpha_[m] : kNaN);
}

template <class T>
void run(CpuStream stream, const SimplexFitArgs& args, Workspace workspace) {
  using A = Accumulator<T>;
  const CohortLossShape& s = args.shape;
  const std::int64_t valid = count_valid(args.valid_rows, s.rows);
  double* const scratch = reinterpret_cast<double*>(workspace.data());
  A* const out = static_cast<A*>(args.weights);
  if (args.scope == FitScope::kBatch) {
    BatchProblem<T> problem(stream, args, valid, scratch, scratch + num_threads(stream) * s.classes);
    const bool finite = minimise_on_simplex(problem);
    return write(problem, finite, s.members, out);
  }
  parallel_chunks(stream, ceil_div(s.rows, kRowsPerChunk), [&](std::int64_t chunk, int thread) {
    const std::int64_t end = std::min(s.rows, (chunk + 1) * kRowsPerChunk);
    for (std::int64_t b = chunk * kRowsPerChunk; b < end; ++b) {
      if (b >= valid) {
        std::fill_n(out + b * s.members, s.members, A{0});
        continue;
      }
      SampleProblem<T> problem({args, b, scratch + thread * s.classes});
      const bool finite = minimise_on_simplex(problem);
      write(problem, finite, s.members, out + b * s.members);
    }
  });
}

}  // namespace

std::size_t simplex_fit_workspace(CpuStream stream, const CohortLossShape& shape) {
  const std::int64_t numbers = num_threads(stream) * shape.classes + shape.rows * std::max(shape.members, 2);
  return static_cast<std::size_t>(numbers) * sizeof(double);
}

void simplex_fit(CpuStream stream, const SimplexFitArgs& args, Workspace workspace) {
  const CohortLossShape& s = args.shape;
  check(s.members >= 1 && s.members <= kMaxMembers, "simplex_fit: members must be in [1, 16]");
  check(s.rows >= 0 && s.classes >= 1, "simplex_fit: rows must not be negative, classes must be positive");
  check(args.labels != nullptr && args.weights != nullptr, "simplex_fit: no labels or no weights");
  check(workspace.size() >= simplex_fit_workspace(stream, s), "simplex_fit: workspace too small");
  dispatch_float(s.dtype, [&]<class T>(std::type_identity<T>) { run<T>(stream, args, workspace); });
}

}  // namespace cohort::kernels
