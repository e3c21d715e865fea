// Sums per channel of (rows, channels) matrices: who reads what, and the merging of threads and chunks in
// fixed order.
#pragma once

#include "kernels/batch_norm.h"
#include "kernels/cuda/pack.cuh"

namespace cohort::kernels::channels {

using Index = std::int64_t;

constexpr int kBlock = 256;
constexpr int kMostWidth = 32;  // channels of a slice
constexpr int kPadding = 4;     // keeps the columns of `Columns` on different banks

// Rows that count: all, or those of the first images.
struct ValidRows {
  const std::int32_t* images;  // device scalar; null: all
  Index rows_per_image;
};

// Rows and channels of a launch: the block (x, y) has slice x of the channels and rows [y chunk_rows, +
// chunk_rows).
struct Tiling {
  Index rows;
  Index valid;  // the first of them, known on the device only: find_valid
  Index channels;
  Index chunk_rows;
  int num_chunks;
  int lanes;  // threads across the slice, a power of two
  ValidRows limit;

  __device__ void find_valid() {
    if (limit.images == nullptr) return;
    const Index valid_rows = static_cast<Index>(*limit.images) * limit.rows_per_image;
    valid = valid_rows < 0 ? 0 : valid_rows < rows ? valid_rows : rows;
  }
  // For means over no row at all.
  __device__ Index divisor() const { return valid > 0 ? valid : 1; }
};

// Where a thread works.
template <int W>
struct Place {
  __device__ Place(const Tiling& t, int chunk, Index rows)
      : stride(kBlock / t.lanes),
        channel((static_cast<Index>(blockIdx.x) * t.lanes + static_cast<int>(threadIdx.x) % t.lanes) * W),
        begin(static_cast<Index>(chunk) * t.chunk_rows),
        end(begin + t.chunk_rows < rows ? begin + t.chunk_rows : rows),
        row(begin + static_cast<int>(threadIdx.x) / t.lanes) {
    if (channel >= t.channels) row = end;  // nothing to do
  }

  int stride;  // rows between a thread's rows
  Index channel;
  Index begin, end;  // rows of the block; none if begin >= end
  Index row;         // first one of the thread
};

// --- sums over the threads of a block, or over chunks ---

// Values of every thread, per channel of the slice: [W][threads], so that neighbours in a row are neighbours
// in memory.
template <class A, int W>
using Columns = A[W][kBlock + kPadding];

// Channel number c of the slice in the order in which Columns has it without bank conflicts, and its place.
template <int W>
struct Column {
  __device__ Column(const Tiling& t, int c) : k(c / t.lanes), lane(c % t.lanes), lanes(t.lanes) {}
  template <class A>
  __device__ A at(const Columns<A, W>& values, int row) const {
    return values[k][row * lanes + lane];
  }
  __device__ Index channel() const { return (static_cast<Index>(blockIdx.x) * lanes + lane) * W + k; }

  int k, lane, lanes;
};

// The sum of the threads t, t + width, t + 2 width, ... in that order, in each of them.
template <class A>
__device__ A fold(A (&scratch)[kBlock], int width, A value) {
  scratch[threadIdx.x] = value;
  __syncthreads();
  A sum = 0;
  for (int t = static_cast<int>(threadIdx.x) % width; t < kBlock; t += width) sum += scratch[t];
  __syncthreads();
  return sum;
}

// sum over items i of value(i); called by all threads, of which those equal modulo `width` share one channel.
template <class A, class F>
__device__ A sum_items(A (&scratch)[kBlock], int width, int items, F value) {
  A sum = 0;
  for (int i = static_cast<int>(threadIdx.x) / width; i < items; i += kBlock / width) sum += value(i);
  return fold(scratch, width, sum);
}

template <class A>
struct Moments {
  A total;   // sum of x, less the shift
  A square;  // sum of squared deviations from the mean
};

// Of all items together, from each item's own: the deviations of group means are added to the squares.
template <class A, class Count, class Total, class Square>
__device__ Moments<A> merge_items(A (&scratch)[kBlock], int width, int items, Index rows, Count count,
                                  Total total, Square square) {
  const A sum = sum_items(scratch, width, items, total);
  const A mean = rows > 0 ? sum / static_cast<A>(rows) : A{0};
  const A squares = sum_items(scratch, width, items, [&](int i) {
    const A n = static_cast<A>(count(i));
    if (n == 0) return A{0};
    const A d = total(i) / n - mean;
    return square(i) + n * d * d;
  });
  return {sum, squares};
}

constexpr int kSumRows = 8;  // rows in flight per thread in RunningMoments

// Running count, sums and squared deviations of W channels, less a shift.
template <class T, int W>
struct RunningMoments {
  using A = Accumulator<T>;

  // rows: the first n of `batch` (n > 0; kFull: all of them).
  template <bool kFull>
  __device__ void merge(const Pack<T, W> (&batch)[kSumRows], const Pack<T, W>& shift, int n) {
    const A inverse = A{1} / static_cast<A>(n);
    const A inverse_count = count > 0 ? A{1} / count : A{0};
    const A weight = count * static_cast<A>(n) / (count + static_cast<A>(n));
#pragma unroll
    for (int k = 0; k < W; ++k) {
      A sum = 0;
#pragma unroll
      for (int r = 0; r < kSumRows; ++r) {
        if (kFull || r < n) sum += batch[r][k] - shift[k];
      }
      const A mean = sum * inverse;
      A deviations = 0;
#pragma unroll
      for (int r = 0; r < kSumRows; ++r) {
        const A d = batch[r][k] - shift[k] - mean;
        if (kFull || r < n) deviations += d * d;
      }
      const A delta = mean - total[k] * inverse_count;
      square[k] += deviations + delta * delta * weight;
      total[k] += sum;
    }
    count += static_cast<A>(n);
  }

  A count = 0;
  A total[W] = {};
  A square[W] = {};
};

// Bit k: element k, rounded as it is stored, is positive.
template <class T, int W>
__device__ std::uint8_t positive_bits(const Pack<T, W>& values) {
  static_assert(W <= 8);
  unsigned bits = 0;
#pragma unroll
  for (int k = 0; k < W; ++k) bits |= (to_float(from_float<T>(values[k])) > 0 ? 1U : 0U) << k;
  return static_cast<std::uint8_t>(bits);
}

// f(std::integral_constant<int, W>): 16-byte vectors of channels or single ones.
template <class T, class F>
void dispatch_width(const BatchNormShape& shape, std::initializer_list<const void*> pointers, F&& f) {
  constexpr int kWide = Vec<T>::kWidth;
  if (shape.channels % kWide == 0 && all_aligned16(pointers)) return f(std::integral_constant<int, kWide>{});
  f(std::integral_constant<int, 1>{});
}

template <int W>
int lanes_of(const BatchNormShape& shape) {
  const int most = W == 1 ? kMostWidth : 4;
  int lanes = 1;
  while (lanes < most && lanes * W < shape.channels) lanes *= 2;
  return lanes;
}

template <int W>
Tiling tiling(const BatchNormShape& shape, const ValidRows& limit, Index chunks) {
  const int lanes = lanes_of<W>(shape);
  const Index stride = kBlock / lanes;
  const Index turns = (shape.rows + chunks * stride - 1) / (chunks * stride);
  const Index chunk_rows = std::max<Index>(1, turns) * stride;
  const Index num_chunks = std::max<Index>(1, (shape.rows + chunk_rows - 1) / chunk_rows);
  return {shape.rows, shape.rows, shape.channels, chunk_rows, static_cast<int>(num_chunks), lanes, limit};
}

template <int W>
simt::LaunchConfig config_of(CudaStream stream, const Tiling& t) {
  const Index slice = static_cast<Index>(t.lanes) * W;
  return {.grid = dim3(grid_size(t.channels, slice), static_cast<unsigned>(t.num_chunks)),
          .block = kBlock,
          .stream = stream};
}

}  // namespace cohort::kernels::channels
