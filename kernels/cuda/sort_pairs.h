// A device-wide stable sort behind one small seam: Thrust in the product (thrust_sort.cu), a host sort on the
// emulated device (tests/simt/vendor).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/stream.h"

namespace cohort::kernels::cuda {

std::size_t sort_pairs_scratch(std::int64_t count);

// Sorts (keys[i], values[i]) by key, ascending and stable, in place. `scratch` holds
// sort_pairs_scratch(count) bytes; nothing is allocated. May wait for the stream: not for use in a step.
void sort_pairs(CudaStream stream, std::uint64_t* keys, std::int32_t* values, std::int64_t count,
                Workspace scratch);

}  // namespace cohort::kernels::cuda
