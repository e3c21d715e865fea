#include "kernels/epoch_weights.h"

#include <algorithm>

namespace cohort::kernels {
namespace {

template <class A>
void run(const EpochWeightsArgs& args) {
  A factor{1};
  if (args.epoch != nullptr)
    factor = static_cast<const A*>(args.table)[std::clamp<std::int64_t>(*args.epoch, 0, args.entries - 1)];
  for (std::int64_t i = 0; i < args.count; ++i)
    static_cast<A*>(args.out)[i] = static_cast<const A*>(args.base)[i] * factor;
}

}  // namespace

void epoch_weights(CpuStream, const EpochWeightsArgs& args) {
  validate(args);
  args.dtype == DType::f64 ? run<double>(args) : run<float>(args);
}

}  // namespace cohort::kernels
