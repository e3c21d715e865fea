#include <algorithm>

#include "kernels/cpu/column_sum.h"
#include "kernels/cpu/onednn.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/matmul.h"

namespace cohort::kernels {
namespace {

using cpu::Scratch;

// Rows of C per chunk. Large products get larger chunks, so that the packing of B is paid less often.
std::int64_t rows_per_slice(const MatmulShape& s) {
  return s.m <= 512 ? 32 : 128;
}

// Where the operands are read and the result is formed in f32.
struct Memory {
  float* a = nullptr;
  float* b = nullptr;
  float* slices = nullptr;  // num_threads pieces of slice_count
  std::int64_t slice_count = 0;

  Memory(CpuStream stream, const MatmulArgs& args, Scratch& memory) {
    const MatmulShape& s = args.shape;
    if (args.a_dtype == DType::bf16) a = memory.take<float>(s.m * s.k);
    if (args.b_dtype == DType::bf16) b = memory.take<float>(s.k * s.n);
    if (args.c_dtype == DType::bf16) {
      slice_count = rows_per_slice(s) * s.n;
      slices = memory.take<float>(num_threads(stream) * slice_count);
    }
  }
};

const float* as_f32(CpuStream stream, const void* data, DType dtype, std::int64_t count, float* copy) {
  if (dtype == DType::f32) return static_cast<const float*>(data);
  parallel_for(stream, count, 1 << 14, [&](std::int64_t begin, std::int64_t end) {
    const bf16* const from = static_cast<const bf16*>(data);
    for (std::int64_t i = begin; i < end; ++i) copy[i] = static_cast<float>(from[i]);
  });
  return copy;
}

void store_row(const float* sums, const float* bias, std::int64_t n, bf16* c, GradMode mode) {
  for (std::int64_t j = 0; j < n; ++j) {
    const float before = mode == GradMode::kAccumulate ? static_cast<float>(c[j]) : 0.0F;
    c[j] = bf16(before + sums[j] + (bias == nullptr ? 0.0F : bias[j]));
  }
}

void matmul_f32(CpuStream stream, const MatmulArgs& args) {
  const MatmulShape& s = args.shape;
  Scratch memory(args.workspace);
  const Memory m(stream, args, memory);
  const float* const a = as_f32(stream, args.a, args.a_dtype, s.m * s.k, m.a);
  const float* const b = as_f32(stream, args.b, args.b_dtype, s.k * s.n, m.b);
  const float* const bias = static_cast<const float*>(args.bias);
  const bool direct = args.c_dtype == DType::f32;
  const std::int64_t rows = rows_per_slice(s);
  parallel_chunks(stream, ceil_div(s.m, rows), [&](std::int64_t slice, int thread) {
    const std::int64_t first = slice * rows;
    const std::int64_t count = std::min(rows, s.m - first);
    float* const c = direct ? static_cast<float*>(args.c) + first * s.n : m.slices + thread * m.slice_count;
    onednn::sgemm({.transpose_a = s.transpose_a,
                   .transpose_b = s.transpose_b,
                   .m = count,
                   .n = s.n,
                   .k = s.k,
                   .a = a + first * (s.transpose_a ? 1 : s.k),
                   .lda = s.transpose_a ? s.m : s.k,
                   .b = b,
                   .ldb = s.transpose_b ? s.k : s.n,
                   .beta = direct && args.mode == GradMode::kAccumulate ? 1.0F : 0.0F,
                   .c = c,
                   .ldc = s.n});
    for (std::int64_t i = 0; i < count; ++i) {
      float* const row = c + i * s.n;
      if (!direct) {
        store_row(row, bias, s.n, static_cast<bf16*>(args.c) + (first + i) * s.n, args.mode);
      } else if (bias != nullptr) {
        for (std::int64_t j = 0; j < s.n; ++j) row[j] += bias[j];
      }
    }
  });
}

void matmul_f64(CpuStream stream, const MatmulArgs& args) {
  const MatmulShape& s = args.shape;
  const auto* const a = static_cast<const double*>(args.a);
  const auto* const b = static_cast<const double*>(args.b);
  const auto* const bias = static_cast<const double*>(args.bias);
  const std::int64_t a_row = s.transpose_a ? 1 : s.k;
  const std::int64_t a_column = s.transpose_a ? s.m : 1;
  const std::int64_t b_row = s.transpose_b ? 1 : s.n;
  const std::int64_t b_column = s.transpose_b ? s.k : 1;
  parallel_chunks(stream, s.m, [&](std::int64_t i, int) {
    double* const c = static_cast<double*>(args.c) + i * s.n;
    for (std::int64_t j = 0; j < s.n; ++j) {
      double sum = 0;
      for (std::int64_t p = 0; p < s.k; ++p) sum += a[i * a_row + p * a_column] * b[p * b_row + j * b_column];
      if (bias != nullptr) sum += bias[j];
      c[j] = args.mode == GradMode::kAccumulate ? c[j] + sum : sum;
    }
  });
}

}  // namespace

void matmul(CpuStream stream, const MatmulArgs& args) {
  const auto is_f64 = [](DType dtype) { return dtype == DType::f64; };
  check(is_f64(args.a_dtype) == is_f64(args.b_dtype) && is_f64(args.a_dtype) == is_f64(args.c_dtype) &&
            is_floating(args.a_dtype) && is_floating(args.b_dtype) && is_floating(args.c_dtype),
        "matmul: dtypes must be f32 and bf16, or f64 throughout");
  if (args.shape.m == 0 || args.shape.n == 0) return;
  check(args.shape.k > 0, "matmul: an empty sum");
  if (is_f64(args.c_dtype)) {
    matmul_f64(stream, args);
  } else {
    matmul_f32(stream, args);
  }
}

std::size_t matmul_workspace(CpuStream stream, const MatmulArgs& args) {
  Scratch memory;
  Memory(stream, args, memory);
  return memory.used();
}

void column_sum(CpuStream stream, const ColumnSumArgs& args) {
  Scratch memory(args.workspace);
  std::byte* const partial = memory.take(column_sum_workspace(stream, args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    cpu::column_sum<T>(stream, static_cast<const T*>(args.x), args.rows, args.columns,
                       static_cast<Accumulator<T>*>(args.sums), args.mode, partial);
  });
}

std::size_t column_sum_workspace(CpuStream, const ColumnSumArgs& args) {
  return cpu::aligned(cpu::column_sum_workspace(args.rows, args.columns, accumulator_of(args.dtype)));
}

}  // namespace cohort::kernels
