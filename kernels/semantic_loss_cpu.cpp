#include "kernels/semantic_loss.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/loss_value.h"
#include "kernels/cpu/parallel.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kClassesPerChunk = 4;

// 1 / |g| in two factors, since |g|^2 may underflow: largest entry's and the rest's; 0, 0 for a row of zeros.
template <class A>
struct Length {
  A inv_largest = 0, inv_rest = 0;
  A unit(A g) const { return g * inv_largest * inv_rest; }
};

template <class A>
Length<A> length_of(const A* g, std::int64_t d) {
  A largest = 0;
  for (std::int64_t i = 0; i < d; ++i) largest = std::max(largest, std::abs(g[i]));
  const A inv = largest < kSmallest<A> ? A{0} : A{1} / largest;
  A squares = 0;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t i = 0; i < d; ++i) squares += (g[i] * inv) * (g[i] * inv);
  return inv == A{0} ? Length<A>{} : Length<A>{inv, A{1} / std::sqrt(squares)};
}

template <class A>
double run_class(const SemanticLossArgs& args, std::int64_t c, A weight) {
  const std::int64_t d = args.channels;
  const A* s = static_cast<const A*>(args.student) + c * d;
  const A* t = static_cast<const A*>(args.teacher) + c * d;
  const Length<A> of_s = length_of(s, d), of_t = length_of(t, d);
  A dot = 0, signs = 0, entries = 0;
#pragma omp simd reduction(+ : dot, signs, entries)
  for (std::int64_t i = 0; i < d; ++i) {
    const A u = of_s.unit(s[i]), v = of_t.unit(t[i]);
    dot += u * v;
    signs += sign_of(u) * sign_of(v);
    entries += sign_of(u) * sign_of(u) + sign_of(v) * sign_of(v);
  }
  if (args.grad_student != nullptr) {
    A* grad = static_cast<A*>(args.grad_student) + c * d;
    const A k = A{-2} * weight * signs;
    for (std::int64_t i = 0; i < d; ++i) grad[i] = k * of_s.unit(of_t.unit(t[i]) - of_s.unit(s[i]) * dot);
  }
  return static_cast<double>(entries) - 2 * static_cast<double>(signs) * static_cast<double>(dot);
}

template <class A>
void run(CpuStream stream, const SemanticLossArgs& args, Workspace workspace) {
  const std::int64_t chunks = ceil_div(args.classes, kClassesPerChunk);
  const double scale = 1.0 / (static_cast<double>(args.classes) * static_cast<double>(args.channels));
  const A weight = static_cast<A>(static_cast<double>(*static_cast<const A*>(args.weight)) * scale);
  auto* const sums = reinterpret_cast<double*>(workspace.data());
  parallel_chunks(stream, chunks, [&](std::int64_t chunk, int) {
    sums[chunk] = 0;
    const std::int64_t end = std::min(args.classes, (chunk + 1) * kClassesPerChunk);
    for (std::int64_t c = chunk * kClassesPerChunk; c < end; ++c)
      sums[chunk] += run_class<A>(args, c, weight);
  });
  double sum = 0;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk];
  finish_loss<A>(sum * scale, args.weight, args.value, args.loss);
}

}  // namespace

std::size_t semantic_loss_workspace(CpuStream, std::int64_t classes) {
  return static_cast<std::size_t>(ceil_div(classes, kClassesPerChunk)) * sizeof(double);
}

void semantic_loss(CpuStream stream, const SemanticLossArgs& args, Workspace workspace) {
  validate(args);
  check(workspace.size() >= semantic_loss_workspace(stream, args.classes),
        "semantic_loss: workspace too small");
  dispatch_accumulator(args.dtype, [&]<class A>(std::type_identity<A>) { run<A>(stream, args, workspace); });
}

}  // namespace cohort::kernels
