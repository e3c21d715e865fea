// How many threads share a row of channels.
#pragma once

#include <cstdint>

namespace cohort::kernels {

// A power of two, at most a warp: `width` channels each, no more threads than that takes.
inline int lanes_for(std::int64_t channels, int width) {
  int lanes = 1;
  while (lanes < 32 && lanes * width < channels) lanes *= 2;
  return lanes;
}

}  // namespace cohort::kernels
