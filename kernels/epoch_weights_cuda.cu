// A thread per weight: there are as many as networks. Bytes: the header's formula.
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/simt.cuh"
#include "kernels/epoch_weights.h"

namespace cohort::kernels {
namespace {

constexpr unsigned kBlock = 64;

template <class A>
__global__ void __launch_bounds__(kBlock) weights_kernel(EpochWeightsArgs args) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i >= args.count) return;
  A factor{1};
  if (args.epoch != nullptr) {
    std::int64_t at = *args.epoch;
    at = at < 0 ? 0 : at < args.entries ? at : args.entries - 1;
    factor = static_cast<const A*>(args.table)[at];
  }
  static_cast<A*>(args.out)[i] = static_cast<const A*>(args.base)[i] * factor;
}

}  // namespace

void epoch_weights(CudaStream stream, const EpochWeightsArgs& args) {
  validate(args);
  if (args.count == 0) return;
  const Rehearsed rehearsed(stream, "epoch_weights", traffic(args));
  const auto blocks = static_cast<unsigned>((args.count + kBlock - 1) / kBlock);
  simt::launch(args.dtype == DType::f64 ? weights_kernel<double> : weights_kernel<float>,
               {.grid = blocks, .block = kBlock, .stream = stream}, args);
}

}  // namespace cohort::kernels
