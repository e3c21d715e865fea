#include <thrust/device_ptr.h>
#include <thrust/sort.h>
#include <thrust/system/cuda/execution_policy.h>

#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/sort_pairs.h"

namespace cohort::kernels::cuda {
namespace {

// Thrust's temporary storage out of the caller's scratch. A radix sort of pairs asks for one block: a second
// copy of keys and values, and histograms.
class ScratchAllocator {
 public:
  using value_type = char;
  explicit ScratchAllocator(Workspace scratch) : scratch_(scratch) {}
  char* allocate(std::ptrdiff_t bytes) {
    const auto size = (static_cast<std::size_t>(bytes) + 255) / 256 * 256;
    check(size <= scratch_.size() - used_,
          "sort_pairs: Thrust needs more scratch than sort_pairs_scratch() says");
    char* const block = reinterpret_cast<char*>(scratch_.data()) + used_;
    used_ += size;
    return block;
  }
  void deallocate(char*, std::size_t) {}

 private:
  Workspace scratch_;
  std::size_t used_ = 0;
};

constexpr std::size_t kHistograms = std::size_t{4} << 20;

}  // namespace

std::size_t sort_pairs_scratch(std::int64_t count) {
  return static_cast<std::size_t>(count) * 2 * (sizeof(std::uint64_t) + sizeof(std::int32_t)) + kHistograms;
}

void sort_pairs(CudaStream stream, std::uint64_t* keys, std::int32_t* values, std::int64_t count,
                Workspace scratch) {
  if (stream.rehearsal != nullptr) return stream.rehearsal->node(Rehearsal::Node::kVendor);
  ScratchAllocator allocator(scratch);
  const auto policy = thrust::cuda::par_nosync(allocator).on(static_cast<cudaStream_t>(stream.handle));
  const thrust::device_ptr<std::uint64_t> first(keys);
  thrust::stable_sort_by_key(policy, first, first + count, thrust::device_ptr<std::int32_t>(values));
}

}  // namespace cohort::kernels::cuda
