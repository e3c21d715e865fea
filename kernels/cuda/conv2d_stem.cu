// grad_weight (K, F) = grad_y^T (K, positions) x patches (positions, F), F = kh kw C. A block takes a chunk
// of the positions, 32 at a time: their patches and gradients go to shared memory as f32, each once, and
// every thread adds up to four elements of the result over them. Where in a patch an element lies is worked
// out once per block, where a patch lies once per position: a division per element would cost more than the
// products.
#include "kernels/cuda/conv2d_stem.h"

#include "kernels/cuda/simt.cuh"
#include "kernels/cuda/vec.cuh"

namespace cohort::kernels::cuda {
namespace {

constexpr int kBlock = 256;
constexpr int kWarp = 32;
constexpr int kPositions = 32;  // at a time
constexpr int kEach = 4;        // elements of the result per thread
constexpr int kMostFilter = 160;
constexpr int kMostFilters = 128;
constexpr std::int64_t kMostChunks = 264;  // two blocks for each multiprocessor of an H100
constexpr int kFoldColumns = 32, kFoldLines = 8;

struct Stem {
  int h, w, c, k, out_h, out_w, filter;  // filter: kh kw c
  int kw, stride, padding, dilation;
  std::int64_t positions, chunk;
};

std::int64_t num_positions(const Conv2dShape& s) {
  return s.n * s.out_h() * s.out_w();
}

// Positions of a chunk, whole tiles.
std::int64_t chunk_of(const Conv2dShape& s) {
  const std::int64_t tiles = (num_positions(s) + kPositions - 1) / kPositions;
  return (tiles + kMostChunks - 1) / kMostChunks * kPositions;
}

std::int64_t num_chunks(const Conv2dShape& s) {
  return (num_positions(s) + chunk_of(s) - 1) / chunk_of(s);
}

struct Tap {
  int row, column, offset;  // of the element from the patch's corner; offset in x
};

struct Corner {
  std::int64_t offset;  // in x
  int row, column;
  bool valid;  // a position of the chunk
};

__device__ inline Corner corner_of(const Stem& s, std::int64_t position, std::int64_t end) {
  const auto q = static_cast<int>(position % s.out_w);
  const auto p = static_cast<int>(position / s.out_w % s.out_h);
  const std::int64_t image = position / s.out_w / s.out_h;
  const int row = p * s.stride - s.padding;
  const int column = q * s.stride - s.padding;
  return {((image * s.h + row) * s.w + column) * s.c, row, column, position < end};
}

// partial[chunk][element of grad_weight]
__global__ __launch_bounds__(kBlock) void stem_sums_kernel(Stem s, const bf16* x, const bf16* grad_y,
                                                           float* partial) {
  SIMT_SHARED(Tap, taps, [kMostFilter]);
  SIMT_SHARED(Corner, corners, [kPositions]);
  SIMT_SHARED(float, patches, [kPositions][kMostFilter]);
  SIMT_SHARED(float, gradients, [kPositions][kMostFilters]);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp;
  const int lane = thread % kWarp;
  for (int f = thread; f < s.filter; f += kBlock) {
    const int row = f / s.c / s.kw * s.dilation;
    const int column = f / s.c % s.kw * s.dilation;
    const Tap tap{row, column, (row * s.w + column) * s.c + f % s.c};
    taps[f] = tap;
  }
  const int weights = s.k * s.filter;
  const int first = static_cast<int>(blockIdx.y) * kBlock * kEach + thread;
  int filters[kEach], elements[kEach];
  float sums[kEach] = {};
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int at = first + i * kBlock < weights ? first + i * kBlock : 0;
    filters[i] = at / s.filter;
    elements[i] = at % s.filter;
  }
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * s.chunk;
  const std::int64_t end = begin + s.chunk < s.positions ? begin + s.chunk : s.positions;
  for (std::int64_t tile = begin; tile < end; tile += kPositions) {
    if (thread < kPositions) {
      const Corner corner = corner_of(s, tile + thread, end);
      corners[thread] = corner;
    }
    __syncthreads();  // also: the tile before has been read, the taps are written
    for (int p = warp; p < kPositions; p += kBlock / kWarp) {
      const Corner corner = corners[p];
      for (int f = lane; f < s.filter; f += kWarp) {
        const Tap tap = taps[f];
        const int row = corner.row + tap.row;
        const int column = corner.column + tap.column;
        const bool inside = corner.valid && row >= 0 && row < s.h && column >= 0 && column < s.w;
        patches[p][f] = inside ? to_float(x[corner.offset + tap.offset]) : 0.0F;
      }
      for (int k = lane; k < s.k; k += kWarp)
        gradients[p][k] = corner.valid ? to_float(grad_y[(tile + p) * s.k + k]) : 0.0F;
    }
    __syncthreads();
    // What is padding has a patch of zeros; a position beyond the end has both, so that no NaN comes from it.
#pragma unroll 4
    for (int p = 0; p < kPositions; ++p) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) sums[i] += gradients[p][filters[i]] * patches[p][elements[i]];
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int at = first + i * kBlock;
    if (at < weights) partial[static_cast<std::int64_t>(blockIdx.x) * weights + at] = sums[i];
  }
}

__global__ void stem_fold_kernel(int chunks, int weights, const float* partial, float* grad_weight,
                                 bool accumulate) {
  SIMT_SHARED(float, lines, [kFoldLines][kFoldColumns]);
  const int column = static_cast<int>(blockIdx.x * kFoldColumns + threadIdx.x);
  float sum = 0;
  if (column < weights) {
    for (int chunk = static_cast<int>(threadIdx.y); chunk < chunks; chunk += kFoldLines)
      sum += partial[static_cast<std::int64_t>(chunk) * weights + column];
  }
  lines[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= weights) return;
  for (int line = 1; line < kFoldLines; ++line) sum += lines[line][threadIdx.x];
  grad_weight[column] = accumulate ? grad_weight[column] + sum : sum;
}

}  // namespace

bool is_stem(const Conv2dShape& s) {
  constexpr std::int64_t kMostSide = 1 << 14;  // offsets within an image are ints
  return s.groups == 1 && s.c <= 4 && s.k <= kMostFilters && s.num_weight() / s.k <= kMostFilter &&
         s.h <= kMostSide && s.w <= kMostSide && num_positions(s) > 0;
}

std::size_t stem_workspace(const Conv2dShape& s) {
  return static_cast<std::size_t>(num_chunks(s) * s.num_weight()) * sizeof(float);
}

void stem_backward_weights(CudaStream stream, const Conv2dBackwardWeightsArgs& args) {
  const Conv2dShape& shape = args.shape;
  check(args.workspace.size() >= stem_workspace(shape), "conv2d: workspace too small");
  const Stem s{.h = static_cast<int>(shape.h),
               .w = static_cast<int>(shape.w),
               .c = static_cast<int>(shape.c),
               .k = static_cast<int>(shape.k),
               .out_h = static_cast<int>(shape.out_h()),
               .out_w = static_cast<int>(shape.out_w()),
               .filter = static_cast<int>(shape.num_weight() / shape.k),
               .kw = shape.kw,
               .stride = shape.stride,
               .padding = shape.padding,
               .dilation = shape.dilation,
               .positions = num_positions(shape),
               .chunk = chunk_of(shape)};
  const auto chunks = static_cast<unsigned>(num_chunks(shape));
  const auto weights = static_cast<int>(shape.num_weight());
  float* const partial = reinterpret_cast<float*>(args.workspace.data());
  const auto slices = static_cast<unsigned>((weights + kBlock * kEach - 1) / (kBlock * kEach));
  simt::launch(stem_sums_kernel, {.grid = dim3(chunks, slices), .block = kBlock, .stream = stream}, s,
               static_cast<const bf16*>(args.x), static_cast<const bf16*>(args.grad_y), partial);
  simt::launch(stem_fold_kernel,
               {.grid = static_cast<unsigned>((weights + kFoldColumns - 1) / kFoldColumns),
                .block = dim3(kFoldColumns, kFoldLines),
                .stream = stream},
               static_cast<int>(chunks), weights, static_cast<const float*>(partial),
               static_cast<float*>(args.grad_weight), args.weight_mode == GradMode::kAccumulate);
}

}  // namespace cohort::kernels::cuda
