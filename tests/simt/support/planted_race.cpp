// Instrumented in the ThreadSanitizer flavour, as kernels are.
#include "kernels/cuda/simt.cuh"
#include "simt/support/flavour.h"

#if defined(SIMT_FLAVOUR_tsan) && !defined(__SANITIZE_THREAD__)
#error "the tsan flavour is not instrumented"
#endif
#if defined(SIMT_FLAVOUR_asan) && !defined(__SANITIZE_ADDRESS__)
#error "the asan flavour is not instrumented"
#endif

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
