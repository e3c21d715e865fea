// A block forms a tile of 32 x 32 elements of C, four to a thread, from tiles of 32 columns of op(A) and 32
// rows of op(B) in shared memory. Tiles are small because the products are: 128 x 64 x 100 for a classifier
// on CIFAR-100 gives 8 blocks, and its time is that of reading k = 100 values one after the other.
#include "kernels/cuda/mixed_matmul.h"

#include "kernels/cuda/simt.cuh"
#include "kernels/cuda/vec.cuh"

namespace cohort::kernels::cuda {
namespace {

constexpr int kTile = 32;
constexpr int kBlock = 256;
constexpr int kThreads = 16;  // of a block along each side of its tile
constexpr int kEach = kTile / kThreads;

// A matrix as stored: element (outer, p) of op(A), or (p, outer) of op(B), where p runs over the sum.
struct Layout {
  std::int64_t outer, sum;  // extents
  bool sum_is_contiguous;
};

using Tile = float[kTile][kTile + 1];  // [p][outer]; the padding keeps a column on different banks

// tile[p][o] = element (first_outer + o, first_p + p), zeros beyond the matrix; neighbours in memory are read
// by neighbouring threads.
template <class T>
__device__ void load_tile(const Layout& m, const T* data, std::int64_t first_outer, std::int64_t first_p,
                          Tile& tile) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kTile; i += kBlock) {
    const int fast = i % kTile;
    const int slow = i / kTile;
    const int p = m.sum_is_contiguous ? fast : slow;
    const int o = m.sum_is_contiguous ? slow : fast;
    const std::int64_t outer = first_outer + o;
    const std::int64_t at = first_p + p;
    const bool inside = outer < m.outer && at < m.sum;
    const std::int64_t offset = m.sum_is_contiguous ? outer * m.sum + at : at * m.outer + outer;
    tile[p][o] = inside ? to_float(data[offset]) : 0.0F;
  }
}

template <class A, class B, class C>
__global__ void mixed_matmul_kernel(Layout layout_a, Layout layout_b, const A* a, const B* b,
                                    const float* bias, C* c, bool accumulate) {
  SIMT_SHARED(float, tile_a, [kTile][kTile + 1]);
  SIMT_SHARED(float, tile_b, [kTile][kTile + 1]);
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.y) * kTile;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const int y = static_cast<int>(threadIdx.x) / kThreads;
  const int x = static_cast<int>(threadIdx.x) % kThreads;
  float sums[kEach][kEach] = {};
  for (std::int64_t first = 0; first < layout_a.sum; first += kTile) {
    load_tile(layout_a, a, row, first, tile_a);
    load_tile(layout_b, b, column, first, tile_b);
    __syncthreads();
#pragma unroll
    for (int p = 0; p < kTile; ++p) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
#pragma unroll
        for (int j = 0; j < kEach; ++j)
          sums[i][j] += tile_a[p][y + i * kThreads] * tile_b[p][x + j * kThreads];
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < kEach; ++i) {
    for (int j = 0; j < kEach; ++j) {
      const std::int64_t r = row + y + i * kThreads;
      const std::int64_t k = column + x + j * kThreads;
      if (r >= layout_a.outer || k >= layout_b.outer) continue;
      C& result = c[r * layout_b.outer + k];
      float value = sums[i][j];
      if (accumulate) value += to_float(result);
      if (bias != nullptr) value += bias[k];
      result = from_float<C>(value);
    }
  }
}

template <class F>
void dispatch_mixed(DType dtype, F&& f) {
  if (dtype == DType::f32) return f(std::type_identity<float>{});
  f(std::type_identity<bf16>{});
}

unsigned tiles(std::int64_t extent) {
  return static_cast<unsigned>((extent + kTile - 1) / kTile);
}

}  // namespace

void mixed_matmul(CudaStream stream, const MatmulArgs& args) {
  const MatmulShape& s = args.shape;
  const Layout layout_a{s.m, s.k, !s.transpose_a};
  const Layout layout_b{s.n, s.k, s.transpose_b};
  check(tiles(s.m) <= 65535, "matmul: too many rows for one launch");
  dispatch_mixed(args.a_dtype, [&]<class A>(std::type_identity<A>) {
    dispatch_mixed(args.b_dtype, [&]<class B>(std::type_identity<B>) {
      dispatch_mixed(args.c_dtype, [&]<class C>(std::type_identity<C>) {
        if constexpr (std::is_same_v<A, B> && (std::is_same_v<A, C> || std::is_same_v<A, bf16>)) {
          internal_error("matmul: operands of one dtype are the engine's");
        } else {
          simt::launch(mixed_matmul_kernel<A, B, C>,
                       {.grid = dim3(tiles(s.n), tiles(s.m)), .block = kBlock, .stream = stream}, layout_a,
                       layout_b, static_cast<const A*>(args.a), static_cast<const B*>(args.b),
                       static_cast<const float*>(args.bias), static_cast<C*>(args.c),
                       args.mode == GradMode::kAccumulate);
        }
      });
    });
  });
}

}  // namespace cohort::kernels::cuda
