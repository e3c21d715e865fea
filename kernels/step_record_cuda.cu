// One warp; a lane per element of a source.
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/simt.cuh"
#include "kernels/step_record.h"
#include "kernels/step_record_math.h"

namespace cohort::kernels {
namespace {

constexpr unsigned kBlock = 32;

__global__ void record(StepRecordArgs args) {
  double* out = args.ring + *args.step % args.capacity * args.width;
  for (int s = 0; s < args.num_sources; ++s) {
    const RecordSource source = args.sources[s];
    for (std::int64_t i = threadIdx.x; i < source.count; i += kBlock) out[i] = record_value(source, i);
    out += source.count;
  }
}

}  // namespace

void step_record(CudaStream stream, const StepRecordArgs& args) {
  const Rehearsed rehearsed(stream, "step_record", traffic(args));
  simt::launch(record, {.grid = 1, .block = kBlock, .stream = stream}, args);
}

}  // namespace cohort::kernels
