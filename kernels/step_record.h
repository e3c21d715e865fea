// The last kernel of a training step: what the step measured, into one row of a ring that the host reads
// later.
//
//   row = ring + (*step % capacity) * width;   row[offset of s + i] = double(source s [i]),  offsets in the
//   sources' order
//
// Shapes: source s (count) of its dtype: f32, f64, bf16 or i32; ring (capacity, width) f64, in memory that
// the host reads too (allocate_pinned of kernels/memory.h); step (1) i32. sum of counts <= width. Sources may
// be null: their entries are NaN. The host may read a row when the step's marker (kernels/readback.h) is
// reached. Bytes: a few hundred. One block on the GPU.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

constexpr int kMaxRecordSources = 224;

struct RecordSource {
  const void* data = nullptr;
  std::int32_t count = 0;
  DType dtype = DType::f32;
};

struct StepRecordArgs {
  std::array<RecordSource, kMaxRecordSources> sources{};
  int num_sources = 0;
  double* ring = nullptr;
  std::int64_t width = 0;
  std::int64_t capacity = 0;
  const std::int32_t* step = nullptr;
};

// By the formula above.
inline Traffic traffic(const StepRecordArgs& a) {
  Traffic moved;
  for (int i = 0; i < a.num_sources; ++i) {
    const RecordSource& source = a.sources[static_cast<std::size_t>(i)];
    moved.bytes += bytes_of(source.dtype, source.count) + 8 * source.count;
  }
  return moved;
}

void step_record(CpuStream stream, const StepRecordArgs& args);
void step_record(CudaStream stream, const StepRecordArgs& args);

}  // namespace cohort::kernels
