// A data set as steps see it. Labels are in device memory. So are the images, or, where they do not fit, they
// stay in host memory and every feed brings its own through pinned buffers (distill/host_feed.h): a step
// finds the same bytes either way.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/context.h"
#include "core/image_set.h"

namespace cohort::distill {

enum class Residency {
  kAuto,  // on the device when the images take at most half of its free memory
  kDevice,
  kHost
};

struct Placement {
  Residency residency = Residency::kAuto;
  // Of images that stay in host memory: how much of an epoch a feed copies at once, at least one batch.
  std::size_t chunk_bytes = std::size_t{16} << 20;
};

struct DeviceImages {
  Tensor images;                       // (N, H, W, C) u8; without memory: they stay in host memory
  Tensor labels;                       // (N) i32
  const std::uint8_t* host = nullptr;  // (N, H, W, C) where they stay there, borrowed
  std::size_t chunk_bytes = 0;
  // Never given out twice. The memory of a set may be another set's later, so an address names nothing.
  std::uint64_t id = 0;
};

// The set outlives what is made of it where the device is the CPU, which reads it in place whatever the
// placement says, and where the images stay in host memory. Throws Error(kMemory) when it does not fit.
DeviceImages to_device(Context& ctx, const ImageSet& set, const Placement& placement = {});

}  // namespace cohort::distill
