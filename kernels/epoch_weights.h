// Weights of loss terms that follow a schedule by the epoch, without a word from the host:
//
//   out[i] = base[i] * table[clamp(epoch, 0, entries - 1)];  out[i] = base[i] without an epoch
//
// Shapes: base, out (count), table (entries) of `dtype`, f32 or f64; epoch (1) i32, from 0. The last entry
//   holds for all epochs from there on.
// Contract: out may be base. Capture safe: everything is read on the device. No workspace.
// Bytes: (2 count + 1) size_of(dtype).
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct EpochWeightsArgs {
  DType dtype = DType::f32;
  std::int64_t count = 0;
  std::int64_t entries = 0;  // at least 1
  const void* base = nullptr;
  const void* table = nullptr;
  const std::int32_t* epoch = nullptr;  // null: there are no epochs
  void* out = nullptr;
};

// By the formula above.
inline Traffic traffic(const EpochWeightsArgs& a) {
  return {bytes_of(a.dtype, 2 * a.count + 1)};
}

inline void validate(const EpochWeightsArgs& args) {
  check(args.dtype == DType::f32 || args.dtype == DType::f64, "epoch_weights: weights are f32 or f64");
  check(args.count >= 0 && args.entries >= 1, "epoch_weights: a table has entries");
  check(args.base != nullptr && args.table != nullptr && args.out != nullptr,
        "epoch_weights: base, table or out is missing");
}

void epoch_weights(CpuStream stream, const EpochWeightsArgs& args);
void epoch_weights(CudaStream stream, const EpochWeightsArgs& args);

}  // namespace cohort::kernels
