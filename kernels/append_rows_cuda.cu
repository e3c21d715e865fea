// A thread per element, a row of blocks per member.
#include "kernels/append_rows.h"
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/simt.cuh"

namespace cohort::kernels {
namespace {

constexpr unsigned kBlock = 256;

template <class T>
__global__ void append(AppendRowsArgs args) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i >= args.rows * args.columns) return;
  const std::int64_t offset = (*args.cursor - 1) * args.batch_size * args.columns;
  args.out[blockIdx.y][offset + i] = static_cast<float>(static_cast<const T*>(args.in[blockIdx.y])[i]);
}

}  // namespace

void append_rows(CudaStream stream, const AppendRowsArgs& args) {
  const Rehearsed rehearsed(stream, "append_rows", traffic(args));
  if (args.rows * args.columns == 0) return;
  const auto blocks = static_cast<unsigned>((args.rows * args.columns + kBlock - 1) / kBlock);
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) {
    simt::launch(
        append<T>,
        {.grid = dim3(blocks, static_cast<unsigned>(args.members)), .block = kBlock, .stream = stream}, args);
  });
}

}  // namespace cohort::kernels
