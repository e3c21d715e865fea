// The first kernel of a training step: takes the step's images, counters and learning rates from tables of
// the epoch, so that a step needs nothing from the host.
//
//   k = *cursor;  first = k * batch_size
//   indices[r] = order[first + r], r in [0, rows)      *epoch = epoch_of[0], *step = epoch_of[1] + k
//   rates_out[j] = rates[k, j], j in [0, columns)      *cursor = k + 1
//   image_rows[r] = (k mod ring_steps) * batch_size + r: where the step's images lie when they come in a ring
//                   of ring_steps batches instead of the whole set
//
// Shapes: order (count) i32, rates (steps, columns) f32, epoch_of (2) i32 = {epoch, steps before it}; cursor,
// epoch, step (1) i32; indices, image_rows (rows) i32; rates_out (columns). No overlap. The caller sees to
// first + rows <= count and k < steps. Bytes: 8 (rows + columns), 4 rows with image_rows. One block on the
// GPU.
#pragma once

#include <cstdint>

#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct StepFeedArgs {
  const std::int32_t* order = nullptr;
  const std::int32_t* epoch_of = nullptr;
  const float* rates = nullptr;
  std::int32_t* cursor = nullptr;
  std::int32_t* indices = nullptr;
  std::int32_t* image_rows = nullptr;  // or null: no ring
  std::int32_t* epoch = nullptr;
  std::int32_t* step = nullptr;
  float* rates_out = nullptr;
  std::int64_t rows = 0;        // of this step
  std::int64_t batch_size = 0;  // of every step but the epoch's last
  std::int64_t columns = 0;
  std::int64_t ring_steps = 1;
};

// By the formula above.
inline Traffic traffic(const StepFeedArgs& a) {
  return {8 * (a.rows + a.columns) + (a.image_rows == nullptr ? 0 : 4 * a.rows)};
}

void step_feed(CpuStream stream, const StepFeedArgs& args);
void step_feed(CudaStream stream, const StepFeedArgs& args);

}  // namespace cohort::kernels
