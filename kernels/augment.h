// From bytes on the device to a network's input: gather, pad, crop, flip, normalise, in one pass for all
// members.
//
//   i = indices[b],  d = draw(seed, member, epoch, i),  n = image_rows[b], or i without them
//   u = flip_d ? W-1-x : x
//   batch[b,y,x,c] = (images[n, y+dy, u+dx, c] / 255 - mean[c]) / std[c]     (pixel 0 outside of the image)
//
// Rows from valid_rows on are padding of a short batch: their values are 0 and their labels -1. The kernel
// also gathers the labels, so that a step needs nothing but the index buffer from the host.
//
// Every member gets its own draws with `independent` (invariant collaborative learning), else all batches
// hold the same values. A sample's values depend on (seed, member, epoch, its index in the data set) only.
//
// The bits do not depend on the device. CUDA: one launch per 16 members.
//
// Bytes: read B*H*W*C per distinct batch, write M*B*H*W*C*size_of(dtype).
//
// Source: He et al., "Deep residual learning", CVPR 2016, section 4.2 (pad 4, crop 32, flip); DeVries and
// Taylor, "Cutout", 2017.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/augment_math.h"
#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include "kernels/base/traffic.h"

namespace cohort::kernels {

struct AugmentArgs {
  const std::uint8_t* images = nullptr;        // (N,H,W,C)
  const std::int32_t* image_labels = nullptr;  // (N), or null
  const std::int32_t* indices = nullptr;       // (B), each in [0, N)
  const std::int32_t* image_rows = nullptr;    // (B), where in `images` they lie; null: at `indices`
  const std::int32_t* valid_rows = nullptr;    // (1), or null: all B
  const std::int32_t* epoch = nullptr;         // (1), or null: 0
  std::span<void* const> batches = {};         // M or 1 pointers to (B,H,W,C) of dtype; no overlap
  std::int32_t* labels = nullptr;              // (B), or null
  std::int64_t batch_size = 0;
  int height = 0, width = 0, channels = 3;  // channels <= kMaxImageChannels
  DType dtype = DType::f32;                 // f32, bf16 or f64
  std::uint64_t seed = 0;
  bool independent = false;  // draws per member instead of shared
  AugmentOptions options = {};
  Normalisation normalisation = {};
};

// By the formula above.
inline Traffic traffic(const AugmentArgs& a) {
  const std::int64_t image = a.batch_size * a.height * a.width * a.channels;
  const auto batches = static_cast<std::int64_t>(a.batches.size());
  return {image * (a.independent ? batches : 1) + bytes_of(a.dtype, image * batches)};
}

void augment(CpuStream stream, const AugmentArgs& args);
void augment(CudaStream stream, const AugmentArgs& args);

}  // namespace cohort::kernels
