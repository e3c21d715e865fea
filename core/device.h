#pragma once

#include <cstdint>

namespace cohort {

enum class DeviceKind : std::uint8_t { kCpu, kCuda };

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
};

inline constexpr bool kHasCuda = COHORT_HAS_CUDA;

// What convolutions and matrix products read and write. Losses, statistics and master weights are f32 in all
// of them but kF64, which is for gradient checks: the command line does not offer it.
enum class Precision : std::uint8_t { kF32, kTF32, kBF16, kF64 };

}  // namespace cohort
