#include "kernels/step_record.h"
#include "kernels/step_record_math.h"

namespace cohort::kernels {

void step_record(CpuStream, const StepRecordArgs& args) {
  double* out = args.ring + *args.step % args.capacity * args.width;
  for (int s = 0; s < args.num_sources; ++s) {
    const RecordSource& source = args.sources[static_cast<std::size_t>(s)];
    for (std::int64_t i = 0; i < source.count; ++i) *out++ = record_value(source, i);
  }
}

}  // namespace cohort::kernels
