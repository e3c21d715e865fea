// Which pixels a window covers and which windows a pixel: one rule for the CPU and the device.
#pragma once

#include <cstdint>

#include "kernels/base/error.h"
#include "kernels/base/host_device.h"
#include "kernels/pool.h"

namespace cohort::kernels {

// Windows along one side of the map, from both ends: the pixels of a window, and the windows of a pixel.
struct PoolAxis {
  std::int64_t size = 0;  // of the map
  std::int64_t out = 0;
  PoolWindow window{};  // size 0: adaptive
  bool count_include_pad = false;

  COHORT_HOST_DEVICE bool adaptive() const { return window.size == 0; }
  COHORT_HOST_DEVICE std::int64_t start(std::int64_t o) const { return o * window.stride - window.padding; }
  // Pixels [begin, end) of window o.
  COHORT_HOST_DEVICE std::int64_t begin(std::int64_t o) const {
    return adaptive() ? o * size / out : start(o) > 0 ? start(o) : 0;
  }
  COHORT_HOST_DEVICE std::int64_t end(std::int64_t o) const {
    if (adaptive()) return ((o + 1) * size + out - 1) / out;
    return start(o) + window.size < size ? start(o) + window.size : size;
  }
  COHORT_HOST_DEVICE std::int64_t divisor(std::int64_t o) const {
    if (!count_include_pad) return end(o) - begin(o);
    const std::int64_t padded = size + window.padding;
    return (start(o) + window.size < padded ? start(o) + window.size : padded) - start(o);
  }
  // Windows [first, last) that cover pixel i.
  COHORT_HOST_DEVICE std::int64_t first(std::int64_t i) const {
    if (adaptive()) return i * out / size;
    const std::int64_t reach = i + window.padding - window.size;
    return reach < 0 ? 0 : reach / window.stride + 1;
  }
  COHORT_HOST_DEVICE std::int64_t last(std::int64_t i) const {
    if (adaptive()) return ((i + 1) * out + size - 1) / size;
    const std::int64_t behind = (i + window.padding) / window.stride + 1;
    return behind < out ? behind : out;
  }
};

struct PoolAxes {
  PoolAxis vertical;
  PoolAxis horizontal;
};

inline PoolAxes window_axes(const PoolShape& s, const PoolWindow& window, bool count_include_pad) {
  const PoolAxes axes{{s.height, s.out_height, window, count_include_pad},
                      {s.width, s.out_width, window, count_include_pad}};
  for (const PoolAxis& a : {axes.vertical, axes.horizontal}) {
    check(window.size > 0 && window.stride > 0 && a.out > 0, "pool: empty window, stride or output");
    check(window.padding * 2 <= window.size && a.start(a.out - 1) < a.size,
          "pool: a window outside of the map");
  }
  return axes;
}

inline PoolAxes adaptive_axes(const PoolShape& s) {
  constexpr PoolWindow kAdaptive{.size = 0};
  check(s.out_height > 0 && s.out_width > 0, "adaptive_avg_pool: empty output");
  return {{s.height, s.out_height, kAdaptive}, {s.width, s.out_width, kAdaptive}};
}

}  // namespace cohort::kernels
