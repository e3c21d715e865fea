#include <cmath>

#include "kernels/base/error.h"
#include "kernels/cpu/parallel.h"
#include "kernels/loss_select.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kRowsPerChunk = 4096;

// Lowest index of the smallest finite value among values[0], values[stride], ...; -1: none is finite.
template <class A>
std::int32_t finite_argmin(const A* values, int count, std::int64_t stride) {
  std::int32_t best = -1;
  for (int k = 0; k < count; ++k) {
    const A v = values[k * stride];
    if (std::isfinite(v) && (best < 0 || v < values[best * stride])) best = k;
  }
  return best;
}

// W[i][j] / weight: 1 / (number of i's teachers) where j teaches i, else 0.
template <class A>
double share(const LossSelectArgs& args, const A* ce, std::int32_t teacher, int i, int j) {
  if (args.rule == SelectRule::kArgmin) return j == teacher && i != j ? 1 : 0;
  int better = 0;
  for (int k = 0; k < args.members; ++k) better += std::isfinite(ce[k]) && ce[k] < ce[i];
  return std::isfinite(ce[j]) && ce[j] < ce[i] ? 1.0 / better : 0;
}

template <class A>
void run(CpuStream stream, const LossSelectArgs& args) {
  const A* ce = static_cast<const A*>(args.ce);
  const std::int32_t teacher = finite_argmin(ce, args.members, 1);
  if (args.teacher != nullptr) *args.teacher = teacher;
  const int masked = args.masked_member == nullptr ? -1 : *args.masked_member;
  for (int i = 0; i < args.members; ++i) {
    for (int j = 0; j < args.members; ++j) {
      const double s = share(args, ce, teacher, i, j);
      const bool comparable = i != masked && j != masked;
      const int at = i * args.members + j;
      if (args.kl_weight != nullptr) static_cast<A*>(args.kl_weight)[at] = static_cast<A>(args.kl * s);
      if (args.feature_weight != nullptr) {
        static_cast<A*>(args.feature_weight)[at] = comparable ? static_cast<A>(args.feature * s) : A{0};
      }
    }
  }
  if (args.row_winner == nullptr) return;
  const std::int64_t valid = args.valid_rows == nullptr ? args.rows : *args.valid_rows;
  const A* rows = static_cast<const A*>(args.ce_rows);
  parallel_for(stream, args.rows, kRowsPerChunk, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) {
      args.row_winner[b] = b < valid ? finite_argmin(rows + b, args.members, args.rows) : -1;
    }
  });
}

}  // namespace

void loss_select(CpuStream stream, const LossSelectArgs& args) {
  check(args.members >= 1, "loss_select: no members");
  check(args.ce != nullptr, "loss_select: no losses");
  check(args.row_winner == nullptr || args.ce_rows != nullptr, "loss_select: row_winner needs ce_rows");
  check(args.dtype == DType::f32 || args.dtype == DType::f64, "loss_select: losses are f32 or f64");
  if (args.dtype == DType::f64) {
    run<double>(stream, args);
  } else {
    run<float>(stream, args);
  }
}

}  // namespace cohort::kernels
