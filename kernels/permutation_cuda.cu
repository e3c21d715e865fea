// Keys by one thread per image, then a stable radix sort of (key, value) pairs (kernels/cuda/sort_pairs.h:
// Thrust). Bytes: the sort dominates: 8 passes over 12 bytes per image, read and write.
#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/simt.cuh"
#include "kernels/cuda/sort_pairs.h"
#include "kernels/permutation.h"
#include "kernels/permutation_math.h"

namespace cohort::kernels {
namespace {

constexpr unsigned kBlock = 256;

__global__ void make_keys(const std::int32_t* values, std::uint64_t* keys, std::int32_t* out,
                          std::int64_t count, std::uint64_t seed, std::uint32_t epoch) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  keys[i] = permutation_key(seed, epoch, static_cast<std::uint32_t>(i));
  out[i] = values[i];
}

std::size_t key_bytes(std::int64_t count) {
  return (static_cast<std::size_t>(count) * sizeof(std::uint64_t) + 255) / 256 * 256;
}

}  // namespace

std::size_t permutation_workspace(CudaStream, std::int64_t count) {
  return key_bytes(count) + cuda::sort_pairs_scratch(count);
}

void permutation(CudaStream stream, const PermutationArgs& args, Workspace workspace) {
  const Rehearsed rehearsed(stream, "permutation", traffic(args));
  check(workspace.size() >= permutation_workspace(stream, args.count), "permutation: workspace too small");
  if (args.count == 0) return;
  auto* const keys = reinterpret_cast<std::uint64_t*>(workspace.data());
  const auto blocks = static_cast<unsigned>((args.count + kBlock - 1) / kBlock);
  simt::launch(make_keys, {.grid = blocks, .block = kBlock, .stream = stream}, args.values, keys, args.out,
               args.count, args.seed, args.epoch);
  cuda::sort_pairs(stream, keys, args.out, args.count, workspace.subspan(key_bytes(args.count)));
}

}  // namespace cohort::kernels
