// Soft targets of samples from what a network thought of them an epoch ago, and what it thinks now, stored
// for the next one.
//
//   target[b] = (1 - d) Y[b] + d q[b],  q[b] = table[indices[b]];  Y where the sample has no prediction yet
//   table[indices[b]] = softmax(logits[b]), after the target has read it
//
// or without a table, from the answers that the network of an epoch ago gives to the same samples:
//
//   target[b] = (1 - d) Y[b] + d softmax(former[b]);  Y where d is 0, whatever the answers are
//
// Shapes: logits, former (rows, classes) dtype f32, bf16 or f64; labels, indices (rows) i32; target (rows,
// classes), table (samples, classes) and the device scalar delta of A = accumulator_of(dtype). A row of zeros
// in the table is a sample without a prediction: it begins with zeros. No alignment is assumed.
//
// Contract: indices of the valid rows are different from each other. Rows from valid_rows on (i32 device
// scalar, null: all) get target 0 and leave the table alone. A prediction that is not finite is not stored:
// its sample keeps the one before, so that a step that goes wrong leaves nothing behind. An index outside
// [0, samples) reads and writes nothing; a label outside [0, classes) makes its target NaN. Null table: no
// predictions. With `former` there is no table, and an answer that is not finite makes its target NaN.
// Deterministic, capture safe, no workspace.
//
// Bytes moved: rows classes (size_of(dtype) + 3 sizeof(A)): logits and table read, target and table written;
// with `former` rows classes (size_of(dtype) + sizeof(A)).
// Method: the divergence term of ADM as KL, with temporal labels.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/error.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct TemporalTargetArgs {
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t classes = 0;
  std::int64_t samples = 0;
  const void* logits = nullptr;
  const std::int32_t* labels = nullptr;
  const std::int32_t* indices = nullptr;  // needed with a table
  const void* delta = nullptr;
  const std::int32_t* valid_rows = nullptr;
  void* table = nullptr;
  const void* former = nullptr;
  void* target = nullptr;
};

// By the formula above.
inline Traffic traffic(const TemporalTargetArgs& a) {
  const std::int64_t count = a.rows * a.classes, rows = bytes_of(accumulator_of(a.dtype), count);
  return {bytes_of(a.dtype, count) + (a.table == nullptr ? 1 : 3) * rows, bytes_of(a.dtype, 2 * count)};
}

inline void validate(const TemporalTargetArgs& args) {
  check(args.rows >= 0 && args.classes >= 1 && args.samples >= 0, "temporal_target: sizes");
  check(args.logits != nullptr && args.labels != nullptr && args.delta != nullptr && args.target != nullptr,
        "temporal_target: logits, labels, delta or target is missing");
  check(args.table == nullptr || args.indices != nullptr, "temporal_target: a table without indices");
  check(args.table == nullptr || args.former == nullptr, "temporal_target: a table and former answers");
}

void temporal_target(CpuStream stream, const TemporalTargetArgs& args);
void temporal_target(CudaStream stream, const TemporalTargetArgs& args);

}  // namespace cohort::kernels
