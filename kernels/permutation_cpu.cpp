#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/cpu/parallel.h"
#include "kernels/permutation.h"
#include "kernels/permutation_math.h"

namespace cohort::kernels {
namespace {

struct Keyed {
  std::uint64_t key;
  std::int32_t position;
  bool operator<(const Keyed& other) const {
    return key != other.key ? key < other.key : position < other.position;
  }
};

}  // namespace

std::size_t permutation_workspace(CpuStream, std::int64_t count) {
  return static_cast<std::size_t>(count) * sizeof(Keyed);
}

void permutation(CpuStream stream, const PermutationArgs& args, Workspace workspace) {
  check(workspace.size() >= permutation_workspace(stream, args.count), "permutation: workspace too small");
  Keyed* const keyed = reinterpret_cast<Keyed*>(workspace.data());
  parallel_for(stream, args.count, 1024, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      keyed[i] = {permutation_key(args.seed, args.epoch, static_cast<std::uint32_t>(i)),
                  static_cast<std::int32_t>(i)};
  });
  std::sort(keyed, keyed + args.count);
  for (std::int64_t i = 0; i < args.count; ++i) args.out[i] = args.values[keyed[i].position];
}

}  // namespace cohort::kernels
