#include "kernels/cuda/sort_pairs.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/base/rehearsal.h"
#include "simt/runtime/runtime.h"

namespace cohort::kernels::cuda {

std::size_t sort_pairs_scratch(std::int64_t count) {
  return static_cast<std::size_t>(count);
}

void sort_pairs(CudaStream stream, std::uint64_t* keys, std::int32_t* values, std::int64_t count, Workspace) {
  if (stream.rehearsal != nullptr) return stream.rehearsal->node(Rehearsal::Node::kVendor);
  simt::enqueue(static_cast<cudaStream_t>(stream.handle), "sort_pairs", [=] {
    std::vector<std::int64_t> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return keys[a] < keys[b]; });
    const std::vector<std::uint64_t> old_keys(keys, keys + count);
    const std::vector<std::int32_t> old_values(values, values + count);
    for (std::int64_t i = 0; i < count; ++i) {
      keys[i] = old_keys[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])];
      values[i] = old_values[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])];
    }
  });
}

}  // namespace cohort::kernels::cuda
