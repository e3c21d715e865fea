// Squared distance of two feature maps, and its gradient to the student's.
//
//   value        = scale sum (s - t)^2          scale: kMean 1 / elements, kSumOverBatch 1 / rows, kSum 1
//   grad_student = weight 2 scale (s - t)       the teacher is detached
//   loss        += weight value                 where `loss` is given
//
// Shapes: student, teacher, grad_student (rows, row_size), any layout that both share, dtype f32, bf16 or
// f64; value, loss and weight are device scalars of A = accumulator_of(dtype). No alignment is assumed.
//
// Contract: `weight` is read on the device. weight == 0: neither map is read, value = 0, loss is untouched
// and grad_student 0 (kOverwrite) or untouched (kAccumulate), so a sick peer of weight 0 cannot spread. Only
// rows [0, valid_rows) count (i32 device scalar, null: all), also in the means; the gradient of the others is
// 0 or untouched. grad_student, value and loss may be null; grad_student may be the student map itself
// (kOverwrite). Deterministic: chunks in fixed order, summed in double. Capture safe. Workspace:
// feature_l2_workspace(elements).
//
// Bytes moved: 3 elements size_of(dtype) (two reads, one write), one read more with kAccumulate.
// Method: hint of FitNets (Romero et al., ICLR 2015) without a regressor; callers adapt channels first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

enum class FeatureReduction : std::uint8_t { kMean, kSumOverBatch, kSum };

struct FeatureL2Args {
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t row_size = 0;
  FeatureReduction reduction = FeatureReduction::kMean;

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
inline Traffic traffic(const FeatureL2Args& a) {
  const std::int64_t count = a.rows * a.row_size;
  return {2 * bytes_of(a.dtype, count) +
          (a.grad_student == nullptr ? 0 : written(a.dtype, count, a.grad_mode))};
}

std::size_t feature_l2_workspace(std::int64_t elements);

void feature_l2(CpuStream stream, const FeatureL2Args& args, Workspace workspace);
void feature_l2(CudaStream stream, const FeatureL2Args& args, Workspace workspace);

}  // namespace cohort::kernels
