#include <algorithm>
#include <numeric>

#include "kernels/step_feed.h"

namespace cohort::kernels {

void step_feed(CpuStream, const StepFeedArgs& args) {
  const std::int64_t k = *args.cursor;
  std::copy_n(args.order + k * args.batch_size, args.rows, args.indices);
  if (args.image_rows != nullptr) {
    std::iota(args.image_rows, args.image_rows + args.rows,
              static_cast<std::int32_t>(k % args.ring_steps * args.batch_size));
  }
  std::copy_n(args.rates + k * args.columns, args.columns, args.rates_out);
  *args.epoch = args.epoch_of[0];
  *args.step = args.epoch_of[1] + static_cast<std::int32_t>(k);
  *args.cursor = static_cast<std::int32_t>(k + 1);
}

}  // namespace cohort::kernels
