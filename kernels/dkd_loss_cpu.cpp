#include <algorithm>
#include <limits>

#include "kernels/base/dkd_row.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/dkd_loss.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kRowsPerChunk = 8;

struct Sums {
  double target, others;
};

template <class T>
class DkdRows {
 public:
  using A = Accumulator<T>;

  DkdRows(const DkdLossArgs& args, std::int64_t valid)
      : args_(args), inv_t_(static_cast<A>(1.0 / args.temperature)) {
    const double k = valid == 0 ? 0 : dkd_factor(args) * args.temperature / static_cast<double>(valid);
    alpha_ = static_cast<A>(k * args.alpha);
    beta_ = static_cast<A>(k * args.beta);
  }

  void run(std::int64_t b, Sums& sums) const {
    const T* s = static_cast<const T*>(args_.student) + b * args_.classes;
    const T* t = static_cast<const T*>(args_.teacher) + b * args_.classes;
    T* grad =
        args_.grad_student == nullptr ? nullptr : static_cast<T*>(args_.grad_student) + b * args_.classes;
    const std::int64_t label = args_.labels[b];
    if (label < 0 || label >= args_.classes) {
      sums.target = sums.others = std::numeric_limits<double>::quiet_NaN();
      if (grad != nullptr)
        std::fill_n(grad, args_.classes, static_cast<T>(std::numeric_limits<A>::quiet_NaN()));
      return;
    }
    const DkdSide<A> student = side(s, label), teacher = side(t, label);
    const A pull = alpha_ * (student.own - teacher.own);
    A others = 0;
    for (std::int64_t c = 0; c < args_.classes; ++c) {
      A g = pull;
      if (c != label) {
        const A log_s = student.log_q(static_cast<A>(s[c]) * inv_t_);
        const A log_t = teacher.log_q(static_cast<A>(t[c]) * inv_t_);
        const A q_s = exp_vectorised(log_s);
        const A q_t = exp_vectorised(log_t);
        others += q_t * (log_t - log_s);
        g = beta_ * (q_s - q_t) - pull * q_s;
      }
      if (grad != nullptr) store(grad[c], g);
    }
    sums.target += static_cast<double>(dkd_target_term(teacher, student));
    sums.others += static_cast<double>(others);
  }

  void skip(std::int64_t b) const {
    if (args_.grad_student == nullptr || args_.grad_mode == GradMode::kAccumulate) return;
    std::fill_n(static_cast<T*>(args_.grad_student) + b * args_.classes, args_.classes, T{});
  }

 private:
  void store(T& to, A gradient) const {
    to = static_cast<T>(args_.grad_mode == GradMode::kAccumulate ? static_cast<A>(to) + gradient : gradient);
  }

  DkdSide<A> side(const T* z, std::int64_t label) const {
    A max = -std::numeric_limits<A>::infinity();
    for (std::int64_t c = 0; c < args_.classes; ++c) {
      const A v = static_cast<A>(z[c]) * inv_t_;
      if (c != label && v > max) max = v;  // a NaN comes in with the sum
    }
    A sum = 0;
    for (std::int64_t c = 0; c < args_.classes; ++c)
      sum += c == label ? A{0} : exp_vectorised(static_cast<A>(z[c]) * inv_t_ - max);
    return DkdSide<A>::make(static_cast<A>(z[label]) * inv_t_, max, sum);
  }

  const DkdLossArgs& args_;
  A inv_t_, alpha_, beta_;
};

template <class T>
void run(CpuStream stream, const DkdLossArgs& args, Workspace workspace) {
  const std::int64_t valid = count_valid(args.valid_rows, args.rows);
  const std::int64_t chunks = ceil_div(args.rows, kRowsPerChunk);
  auto* const sums = reinterpret_cast<Sums*>(workspace.data());
  const DkdRows<T> rows(args, valid);
  parallel_chunks(stream, chunks, [&](std::int64_t chunk, int) {
    sums[chunk] = {};
    const std::int64_t end = std::min(args.rows, (chunk + 1) * kRowsPerChunk);
    for (std::int64_t b = chunk * kRowsPerChunk; b < end; ++b) {
      if (b < valid) {
        rows.run(b, sums[chunk]);
      } else {
        rows.skip(b);
      }
    }
  });
  Sums total{};
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    total.target += sums[chunk].target;
    total.others += sums[chunk].others;
  }
  dkd_finish<Accumulator<T>>(args, total.target, total.others, valid);
}

}  // namespace

std::size_t dkd_loss_workspace(CpuStream, std::int64_t rows) {
  return static_cast<std::size_t>(ceil_div(rows, kRowsPerChunk)) * sizeof(Sums);
}

void dkd_loss(CpuStream stream, const DkdLossArgs& args, Workspace workspace) {
  validate(args);
  check(workspace.size() >= dkd_loss_workspace(stream, args.rows), "dkd_loss: workspace too small");
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { run<T>(stream, args, workspace); });
}

}  // namespace cohort::kernels
