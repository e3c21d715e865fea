#include "kernels/base/valid_rows.h"
#include "kernels/feature_l2.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/cpu/parallel.h"

namespace cohort::kernels {
namespace {

constexpr std::int64_t kChunk = 8192;

double scale_of(FeatureReduction reduction, std::int64_t rows, std::int64_t row_size) {
  if (rows == 0 || row_size == 0) return 0;
  switch (reduction) {
    case FeatureReduction::kMean:
      return 1.0 / (static_cast<double>(rows) * static_cast<double>(row_size));
    case FeatureReduction::kSumOverBatch:
      return 1.0 / static_cast<double>(rows);
    case FeatureReduction::kSum:
      return 1;
  }
  internal_error("feature_l2: unknown reduction");
}

// sum (s - t)^2 over [begin, end); writes the gradient on the way.
template <class T, class A>
A chunk_sum(const T* s, const T* t, std::int64_t begin, std::int64_t end, A k, T* grad, GradMode mode) {
  A sum = 0;
  if (grad == nullptr) {
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = begin; i < end; ++i) {
      const A d = static_cast<A>(s[i]) - static_cast<A>(t[i]);
      sum += d * d;
    }
  } else if (mode == GradMode::kOverwrite) {
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = begin; i < end; ++i) {
      const A d = static_cast<A>(s[i]) - static_cast<A>(t[i]);
      sum += d * d;
      grad[i] = static_cast<T>(k * d);
    }
  } else {
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = begin; i < end; ++i) {
      const A d = static_cast<A>(s[i]) - static_cast<A>(t[i]);
      sum += d * d;
      grad[i] = static_cast<T>(static_cast<A>(grad[i]) + k * d);
    }
  }
  return sum;
}

template <class T>
void clear(CpuStream stream, T* grad, std::int64_t begin, std::int64_t end, GradMode mode) {
  if (grad == nullptr || mode == GradMode::kAccumulate || begin >= end) return;
  parallel_for(stream, end - begin, 8 * kChunk, [&](std::int64_t first, std::int64_t last) {
    std::fill(grad + begin + first, grad + begin + last, T{});
  });
}

template <class T>
void run(CpuStream stream, const FeatureL2Args& args, Workspace workspace) {
  using A = Accumulator<T>;
  const std::int64_t rows = count_valid(args.valid_rows, args.rows);
  const double weight = static_cast<double>(*static_cast<const A*>(args.weight));
  const std::int64_t elements = args.rows * args.row_size;
  auto* grad = static_cast<T*>(args.grad_student);
  if (weight == 0) {
    clear(stream, grad, 0, elements, args.grad_mode);
    if (args.value != nullptr) *static_cast<A*>(args.value) = 0;
    return;
  }
  const double scale = scale_of(args.reduction, rows, args.row_size);
  const auto k = static_cast<A>(2 * weight * scale);
  const auto* student = static_cast<const T*>(args.student);
  const auto* teacher = static_cast<const T*>(args.teacher);
  auto* partial = reinterpret_cast<A*>(workspace.data());
  const std::int64_t valid = rows * args.row_size;
  const std::int64_t chunks = ceil_div(valid, kChunk);
  parallel_chunks(stream, chunks, [&](std::int64_t chunk, int) {
    const std::int64_t begin = chunk * kChunk;
    partial[chunk] =
        chunk_sum(student, teacher, begin, std::min(valid, begin + kChunk), k, grad, args.grad_mode);
  });
  clear(stream, grad, valid, elements, args.grad_mode);
  double sum = 0;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) sum += static_cast<double>(partial[chunk]);
  const double value = scale * sum;
  if (args.value != nullptr) *static_cast<A*>(args.value) = static_cast<A>(value);
  if (args.loss != nullptr) *static_cast<A*>(args.loss) += static_cast<A>(weight * value);
}

}  // namespace

std::size_t feature_l2_workspace(std::int64_t elements) {
  return static_cast<std::size_t>(ceil_div(elements, kChunk)) * sizeof(double);
}

void feature_l2(CpuStream stream, const FeatureL2Args& args, Workspace workspace) {
  check(args.weight != nullptr, "feature_l2: no weight");
  check(workspace.size() >= feature_l2_workspace(args.rows * args.row_size),
        "feature_l2: workspace too small");
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { run<T>(stream, args, workspace); });
}

}  // namespace cohort::kernels
