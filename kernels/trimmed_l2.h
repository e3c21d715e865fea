// Mean squared distance of two feature maps without the largest third of the squares, and its gradient.
//
//   e_i   = (s_i - t_i)^2;  of every group of n elements the floor(n/3) largest e_i are left out
//   value = sum of the kept e_i / their number, over all groups;  loss += weight value
//   grad_student = weight 2 keep_i (s_i - t_i) / number kept      the teacher is detached
//
// Groups: all elements of the valid rows, or each row by itself (per_row). keep_i is 1 or 0; where m equal
// squares lie on the border and r of them are to go, each of the m keeps (m - r) / m of itself: the value is
// the same whichever go, and the gradient depends on no order.
//
// Shapes: student, teacher, grad_student (rows, row_size), any layout that both share, dtype f32, bf16 or
// f64; value, loss and weight are device scalars of A = accumulator_of(dtype). No alignment is assumed.
//
// Contract: as kernels/feature_l2.h: a weight of 0 reads no map, gives value 0 and gradient 0 (kOverwrite) or
// an untouched one; only rows [0, valid_rows) count; grad_student, value and loss may be null. Outputs alias
// nothing. A square that is not finite makes the value NaN, also where it is left out: a sick map does not
// hide. Deterministic: integer counts, sums in a fixed order. Capture safe. At most 65,535 rows per_row, and
// fewer than 2^32 elements. Workspace: trimmed_l2_workspace.
//
// Bytes moved: 3 elements size_of(dtype), and both maps again for every 8 bits of a square (4 times; 8 for
// f64), from the caches where they fit.
// Method: the variant "drop" of ADM's feature loss. The border is found digit by digit (radix selection),
// from the bits of the squares: those of numbers that are not negative order as they do.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/error.h"
#include "kernels/base/host_device.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct TrimmedL2Shape {
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t row_size = 0;
  bool per_row = false;

  COHORT_HOST_DEVICE std::int64_t elements() const { return rows * row_size; }
  COHORT_HOST_DEVICE std::int64_t groups() const { return per_row ? rows : 1; }
  COHORT_HOST_DEVICE std::int64_t group_size() const { return per_row ? row_size : elements(); }
  // Digits of a square, eight bits each.
  COHORT_HOST_DEVICE int digits() const { return dtype == DType::f64 ? 8 : 4; }
};

struct TrimmedL2Args {
  TrimmedL2Shape shape;
  const void* student = nullptr;
  const void* teacher = nullptr;
  const void* weight = nullptr;
  const std::int32_t* valid_rows = nullptr;

  void* grad_student = nullptr;
  GradMode grad_mode = GradMode::kOverwrite;
  void* value = nullptr;
  void* loss = nullptr;
};

// By the formula above.
inline Traffic traffic(const TrimmedL2Args& a) {
  const std::int64_t count = a.shape.elements(), maps = 2 * bytes_of(a.shape.dtype, count);
  return {maps + (a.grad_student == nullptr ? 0 : written(a.shape.dtype, count, a.grad_mode)),
          maps * a.shape.digits()};
}

inline void validate(const TrimmedL2Args& args, Workspace workspace, std::size_t needed) {
  const TrimmedL2Shape& s = args.shape;
  check(args.weight != nullptr, "trimmed_l2: no weight");
  check(s.rows >= 0 && s.row_size >= 0 && s.elements() < (std::int64_t{1} << 32) && s.groups() <= 65535,
        "trimmed_l2: sizes");
  check(workspace.size() >= needed, "trimmed_l2: workspace too small");
}

std::size_t trimmed_l2_workspace(CpuStream stream, const TrimmedL2Shape& shape);
std::size_t trimmed_l2_workspace(CudaStream stream, const TrimmedL2Shape& shape);

void trimmed_l2(CpuStream stream, const TrimmedL2Args& args, Workspace workspace);
void trimmed_l2(CudaStream stream, const TrimmedL2Args& args, Workspace workspace);

}  // namespace cohort::kernels
