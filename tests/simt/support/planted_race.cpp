// Instrumented in the ThreadSanitizer flavour, as kernels are.
#include "kernels/cuda/simt.cuh"
#include "simt/support/flavour.h"

namespace simt::test {
namespace {

__global__ void last_writer(int* word) {
  *word = static_cast<int>(blockIdx.x);
}

}  // namespace

void run_planted_race() {
  int word = 0;
  const LaunchConfig config{.grid = 2, .block = static_cast<unsigned>(widest_block())};
  detail::run_grid(config, [&word] { last_writer(&word); });
}

}  // namespace simt::test
