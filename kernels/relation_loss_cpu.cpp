#include "kernels/base/valid_rows.h"
#include "kernels/relation_loss.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/loss_value.h"
#include "kernels/cpu/parallel.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kRowsPerChunk = 8;

template <class A>
A inverse_length(const A* row, std::int64_t n) {
  A squares = 0;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t j = 0; j < n; ++j) squares += row[j] * row[j];
  const A length = std::sqrt(squares);
  return length < static_cast<A>(kShortestRow) ? A{0} : A{1} / length;
}

// The row's part of the sum of squares; its gradient on the way.
template <class A>
double run_row(const RelationLossArgs& args, std::int64_t i, std::int64_t n, A weight) {
  const A* s = static_cast<const A*>(args.student) + i * args.rows;
  const A* t = static_cast<const A*>(args.teacher) + i * args.rows;
  const A inv_s = inverse_length(s, n), inv_t = inverse_length(t, n);
  A sum = 0, along = 0;
#pragma omp simd reduction(+ : sum, along)
  for (std::int64_t j = 0; j < n; ++j) {
    const A h = s[j] * inv_s, d = h - t[j] * inv_t;
    sum += d * d;
    along += h * d;
  }
  if (args.grad_student == nullptr) return static_cast<double>(sum);
  A* grad = static_cast<A*>(args.grad_student) + i * args.rows;
  const A k = A{2} * weight * inv_s;
  for (std::int64_t j = 0; j < n; ++j) {
    const A h = s[j] * inv_s;
    grad[j] = k * (h - t[j] * inv_t - h * along);
  }
  std::fill(grad + n, grad + args.rows, A{0});
  return static_cast<double>(sum);
}

template <class A>
void run(CpuStream stream, const RelationLossArgs& args, Workspace workspace) {
  const std::int64_t n = count_valid(args.valid_rows, args.rows);
  const std::int64_t chunks = ceil_div(args.rows, kRowsPerChunk);
  const double scale = n == 0 ? 0 : 1.0 / (static_cast<double>(n) * static_cast<double>(n));
  const A weight = static_cast<A>(static_cast<double>(*static_cast<const A*>(args.weight)) * scale);
  auto* const sums = reinterpret_cast<double*>(workspace.data());
  parallel_chunks(stream, chunks, [&](std::int64_t chunk, int) {
    sums[chunk] = 0;
    const std::int64_t end = std::min(args.rows, (chunk + 1) * kRowsPerChunk);
    for (std::int64_t i = chunk * kRowsPerChunk; i < end; ++i) {
      if (i < n) {
        sums[chunk] += run_row<A>(args, i, n, weight);
      } else if (args.grad_student != nullptr) {
        std::fill_n(static_cast<A*>(args.grad_student) + i * args.rows, args.rows, A{0});
      }
    }
  });
  double sum = 0;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk];
  finish_loss<A>(sum * scale, args.weight, args.value, args.loss);
}

}  // namespace

std::size_t relation_loss_workspace(CpuStream, std::int64_t rows) {
  return static_cast<std::size_t>(ceil_div(rows, kRowsPerChunk)) * sizeof(double);
}

void relation_loss(CpuStream stream, const RelationLossArgs& args, Workspace workspace) {
  validate(args);
  check(workspace.size() >= relation_loss_workspace(stream, args.rows), "relation_loss: workspace too small");
  dispatch_accumulator(args.dtype, [&]<class A>(std::type_identity<A>) { run<A>(stream, args, workspace); });
}

}  // namespace cohort::kernels
