// One block: everybody has read the cursor before one thread moves it on.
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/simt.cuh"
#include "kernels/step_feed.h"

namespace cohort::kernels {
namespace {

constexpr unsigned kBlock = 128;

__global__ void feed(StepFeedArgs args) {
  const std::int64_t k = *args.cursor;
  for (std::int64_t r = threadIdx.x; r < args.rows; r += kBlock)
    args.indices[r] = args.order[k * args.batch_size + r];
  if (args.image_rows != nullptr) {
    for (std::int64_t r = threadIdx.x; r < args.rows; r += kBlock)
      args.image_rows[r] = static_cast<std::int32_t>(k % args.ring_steps * args.batch_size + r);
  }
  for (std::int64_t j = threadIdx.x; j < args.columns; j += kBlock)
    args.rates_out[j] = args.rates[k * args.columns + j];
  __syncthreads();
  if (threadIdx.x != 0) return;
  *args.epoch = args.epoch_of[0];
  *args.step = args.epoch_of[1] + static_cast<std::int32_t>(k);
  *args.cursor = static_cast<std::int32_t>(k + 1);
}

}  // namespace

void step_feed(CudaStream stream, const StepFeedArgs& args) {
  const Rehearsed rehearsed(stream, "step_feed", traffic(args));
  simt::launch(feed, {.grid = 1, .block = kBlock, .stream = stream}, args);
}

}  // namespace cohort::kernels
