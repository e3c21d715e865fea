#include <algorithm>
#include <cmath>
#include <string>
#include <type_traits>

#include "kernels/base/error.h"
#include "kernels/batch_norm.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/parallel.h"

namespace cohort::kernels {
namespace {

using Index = std::int64_t;

// How the (rows, channels) matrix is walked. `repeat` rows side by side make a tile row of `width` contiguous
// elements; arrays per channel are repeated to that width. So every inner loop is a plain loop over
// contiguous memory, a multiple of 16 elements and at least 64 long, also for 16 or 3 channels.
struct Walk {
  static constexpr Index kMaxWidth = 1024;  // of the accumulators on the stack: 3 x 4 KiB

  explicit Walk(const BatchNormShape& shape) : rows(shape.rows), channels(shape.channels) {
    while (repeat < 64 && (channels * repeat % 16 != 0 || channels * repeat < 64)) ++repeat;
    if (channels * repeat > kMaxWidth) repeat = 1;
    width = channels * repeat;
    // A block is summed twice: 4096 elements stay in the first-level cache. At least 16 tile rows, so that
    // merging the block (about 12 double operations per channel) stays cheap.
    block_rows = repeat * std::max<Index>(16, 4096 / width);
    // A chunk is a unit of work and of partial sums: at least 32768 elements and at least 8 blocks (the
    // partial sums are then at most 1/32 of the data), at most 2048 chunks.
    const Index blocks = std::max(Index{8}, ceil_div(32768, block_rows * channels));
    chunk_rows = std::max(blocks, ceil_div(rows, block_rows * 2048)) * block_rows;
    num_chunks = std::max<Index>(1, ceil_div(rows, chunk_rows));
    most_chunks = std::clamp<Index>(ceil_div(rows, blocks * block_rows), 1, 2048);
  }

  Index begin(Index chunk) const { return chunk * chunk_rows; }
  Index end(Index chunk) const { return std::min(rows, (chunk + 1) * chunk_rows); }

  Index rows;
  Index channels;
  Index repeat = 1;
  Index width = 0;
  Index block_rows = 0;
  Index chunk_rows = 0;
  Index num_chunks = 0;
  Index most_chunks = 0;  // of this many rows or fewer
};

// The rows that count: the leading ones, so that a short batch is walked, and rounds, as if it came alone.
template <class Args>
Walk walk_valid_rows(const Args& args) {
  if (args.valid_images == nullptr) return Walk(args.shape);
  const Index valid = std::clamp<Index>(*args.valid_images * args.rows_per_image, 0, args.shape.rows);
  return Walk({valid, args.shape.channels});
}

template <class T>
void clear_padding(const Walk& walk, const BatchNormShape& shape, T* array) {
  if (array != nullptr) std::fill(array + walk.rows * walk.channels, array + shape.rows * walk.channels, T{});
}

// The workspace: two doubles per channel and chunk, then up to four arrays per channel at the walk's width.
template <class A>
struct Scratch {
  Scratch(const Walk& walk, Workspace workspace) {
    check(workspace.size() >= batch_norm_workspace({walk.rows, walk.channels}),
          "batch_norm: workspace too small");
    partial = reinterpret_cast<double*>(workspace.data());
    A* columns = reinterpret_cast<A*>(partial + 2 * walk.num_chunks * walk.channels);
    for (int i = 0; i < 4; ++i) column[i] = columns + i * walk.width;
  }

  double* partial;
  A* column[4];
};

// column[i] = f(i mod channels).
template <class A, class F>
void fill_column(const Walk& walk, A* column, F&& f) {
  for (Index c = 0; c < walk.channels; ++c) column[c] = static_cast<A>(f(c));
  for (Index i = walk.channels; i < walk.width; ++i) column[i] = column[i - walk.channels];
}

// f(offset, count) for each tile row of rows [begin, end), the last one possibly shorter.
template <class F>
void for_tile_rows(const Walk& walk, Index begin, Index end, F&& f) {
  const Index last = end * walk.channels;
  for (Index offset = begin * walk.channels; offset < last; offset += walk.width) {
    f(offset, std::min(walk.width, last - offset));
  }
}

// One or two values per element, to be summed per column.
template <class A>
struct Single {
  A first;
};
template <class A>
struct Pair {
  A first;
  A second;
};

// sum[0][j] += first, sum[1][j] += second of term(offset + j, j), over `tile_rows` tile rows: four at a time,
// so that the accumulators are loaded and stored once per four elements and chains are a quarter as long.
template <class A, class Term>
void sum_columns(Index offset, Index stride, Index tile_rows, Index count, A (*sum)[Walk::kMaxWidth],
                 Term term) {
  constexpr bool kPair = std::is_same_v<decltype(term(Index{0}, Index{0})), Pair<A>>;
  A* first = sum[0];
  A* second = sum[1];
  Index row = 0;
  for (; row + 4 <= tile_rows; row += 4, offset += 4 * stride) {
#pragma omp simd
    for (Index j = 0; j < count; ++j) {
      const auto p = term(offset + j, j);
      const auto q = term(offset + stride + j, j);
      const auto r = term(offset + 2 * stride + j, j);
      const auto s = term(offset + 3 * stride + j, j);
      first[j] += (p.first + q.first) + (r.first + s.first);
      if constexpr (kPair) second[j] += (p.second + q.second) + (r.second + s.second);
    }
  }
  for (; row < tile_rows; ++row, offset += stride) {
#pragma omp simd
    for (Index j = 0; j < count; ++j) {
      const auto p = term(offset + j, j);
      first[j] += p.first;
      if constexpr (kPair) second[j] += p.second;
    }
  }
}

// Folds the copies of each channel onto the first one.
template <class A>
void fold(const Walk& walk, A* sum) {
  for (Index i = walk.channels; i < walk.width; i += walk.channels) {
#pragma omp simd
    for (Index c = 0; c < walk.channels; ++c) sum[c] += sum[i + c];
  }
}

// f(row begin, row end, column begin, columns) for each block of a chunk and each slice of at most kMaxWidth
// columns.
template <class F>
void for_blocks(const Walk& walk, Index chunk, F&& f) {
  const Index end = walk.end(chunk);
  for (Index begin = walk.begin(chunk); begin < end; begin += walk.block_rows) {
    const Index block_end = std::min(end, begin + walk.block_rows);
    for (Index column = 0; column < walk.width; column += Walk::kMaxWidth) {
      f(begin, block_end, column, std::min(Walk::kMaxWidth, walk.width - column));
    }
  }
}

// The column sums of one piece of a block, folded: sum[i][0 .. channels of the slice).
template <class A, class Term>
void sum_block(const Walk& walk, Index begin, Index end, Index column, Index count, A (*sum)[Walk::kMaxWidth],
               Term term) {
  std::fill_n(sum[0], count, A{0});
  std::fill_n(sum[1], count, A{0});
  const Index tile_rows = (end - begin) / walk.repeat;
  const Index tail = (end - begin) % walk.repeat * walk.channels;
  const Index offset = begin * walk.channels + column;
  sum_columns(offset, walk.width, tile_rows, count, sum, term);
  if (tail != 0) sum_columns(offset + tile_rows * walk.width, walk.width, 1, tail, sum, term);
  if (walk.repeat > 1) {
    fold(walk, sum[0]);
    fold(walk, sum[1]);
  }
}

// Mean and sum of squared deviations of `rows` values merged into those of `total` values before them.
struct Merge {
  Merge(Index total, Index rows)
      : weight(static_cast<double>(rows) / static_cast<double>(total + rows)),
        cross(weight * static_cast<double>(total)) {}

  void operator()(double& mean, double& square, double block_mean, double block_square) const {
    const double delta = block_mean - mean;
    mean += delta * weight;
    square += block_square + delta * delta * cross;
  }

  double weight;
  double cross;
};

// Of one chunk: mean (channels), less the first row of x so that merging means rounds at the size of their
// differences; sum of squared deviations (channels).
template <class T>
void chunk_statistics(const Walk& walk, Index chunk, const T* x, double* mean, double* square) {
  using A = Accumulator<T>;
  alignas(64) A sum[2][Walk::kMaxWidth];
  alignas(64) A shift[Walk::kMaxWidth];
  std::fill_n(mean, walk.channels, 0.0);
  std::fill_n(square, walk.channels, 0.0);
  for_blocks(walk, chunk, [&](Index begin, Index end, Index column, Index count) {
    const Index channels = std::min(count, walk.channels);  // of this slice
    const A inverse = A{1} / static_cast<A>(end - begin);
    sum_block(walk, begin, end, column, count, sum, [x](Index i, Index) { return Single<A>{load(x, i)}; });
    for (Index c = 0; c < channels; ++c) shift[c] = sum[0][c] * inverse;
    for (Index i = channels; i < count; ++i) shift[i] = shift[i - channels];
    sum_block(walk, begin, end, column, count, sum, [x, &shift](Index i, Index j) {
      const A d = load(x, i) - shift[j];
      return Pair<A>{d, d * d};
    });
    // The deviations add up to the rounding error of `shift` (times rows): it is taken off the mean, and its
    // square off the sum of squares.
    const double inverse_rows = 1.0 / static_cast<double>(end - begin);
    const Merge merge(begin - walk.begin(chunk), end - begin);
#pragma omp simd
    for (Index c = 0; c < channels; ++c) {
      const double deviation = static_cast<double>(sum[0][c]);
      const double correction = deviation * inverse_rows;
      merge(mean[column + c], square[column + c],
            static_cast<double>(shift[c]) - static_cast<double>(x[column + c]) + correction,
            static_cast<double>(sum[1][c]) - deviation * correction);
    }
  });
}

// f(begin, end) over the channels, on several threads only where there are many partial sums to add up.
template <class F>
void for_channels(CpuStream stream, const Walk& walk, F&& f) {
  parallel_for(stream, walk.channels, std::max<Index>(64, (1 << 16) / walk.num_chunks), f);
}

// Merges the chunks in order, writes the statistics that the backward pass needs and updates the running
// ones.
template <class T>
void finish_statistics(CpuStream stream, const Walk& walk, const BatchNormForwardArgs& args,
                       double* partial) {
  using A = Accumulator<T>;
  A* const saved_mean = static_cast<A*>(args.mean);
  A* const saved_invstd = static_cast<A*>(args.invstd);
  A* const running_mean = static_cast<A*>(walk.rows < 2 ? nullptr : args.running_mean);
  A* const running_var = static_cast<A*>(walk.rows < 2 ? nullptr : args.running_var);
  const double rows = static_cast<double>(std::max<Index>(1, walk.rows));
  for_channels(stream, walk, [&](Index first, Index last) {
    double* const mean = partial;
    double* const square = partial + walk.channels;
    for (Index chunk = 1; chunk < walk.num_chunks; ++chunk) {
      const double* other = partial + 2 * chunk * walk.channels;
      const Merge merge(walk.begin(chunk), walk.end(chunk) - walk.begin(chunk));
#pragma omp simd
      for (Index c = first; c < last; ++c) merge(mean[c], square[c], other[c], other[walk.channels + c]);
    }
    for (Index c = first; c < last; ++c) {
      mean[c] += static_cast<double>(static_cast<const T*>(args.x)[c]);
      // Rounding in the correction of a block can leave a tiny negative sum; NaN must stay NaN.
      if (square[c] < 0) square[c] = 0;
      saved_mean[c] = static_cast<A>(mean[c]);
      saved_invstd[c] = static_cast<A>(1.0 / std::sqrt(square[c] / rows + args.eps));
      if (running_mean != nullptr) {
        const double old = static_cast<double>(running_mean[c]);
        running_mean[c] = static_cast<A>((1 - args.momentum) * old + args.momentum * mean[c]);
      }
      if (running_var != nullptr) {
        const double old = static_cast<double>(running_var[c]);
        running_var[c] = static_cast<A>((1 - args.momentum) * old + args.momentum * (square[c] / (rows - 1)));
      }
    }
  });
}

template <class A>
double value_or(const void* array, Index c, double otherwise) {
  return array == nullptr ? otherwise : static_cast<double>(static_cast<const A*>(array)[c]);
}

// y of all rows. Chunks in reverse: the last ones read by the statistics pass may still be in the cache.
template <class T, bool kRelu, bool kResidual>
void normalise(CpuStream stream, const Walk& walk, const BatchNormForwardArgs& args,
               Accumulator<T>* const (&column)[4]) {
  using A = Accumulator<T>;
  const T* const x = static_cast<const T*>(args.x);
  const T* const residual = static_cast<const T*>(args.residual);
  T* const y = static_cast<T*>(args.y);
  // x - mean before the product: folding the mean into the shift would round at the size of mean * scale.
  const A* const mean = column[0];
  const A* const scale = column[1];
  const A* const shift = column[2];
  parallel_chunks(stream, walk.num_chunks, [&](Index reversed, int) {
    const Index chunk = walk.num_chunks - 1 - reversed;
    for_tile_rows(walk, walk.begin(chunk), walk.end(chunk), [&](Index offset, Index count) {
#pragma omp simd
      for (Index j = 0; j < count; ++j) {
        A value = (load(x, offset + j) - mean[j]) * scale[j] + shift[j];
        if constexpr (kResidual) value += load(residual, offset + j);
        if constexpr (kRelu) value = value < A{0} ? A{0} : value;
        store(y, offset + j, value);
      }
    });
  });
}

template <class T>
void forward(CpuStream stream, const BatchNormForwardArgs& args) {
  using A = Accumulator<T>;
  const Walk walk = walk_valid_rows(args);
  clear_padding(walk, args.shape, static_cast<T*>(args.y));
  const Scratch<A> scratch(walk, args.workspace);
  const A* mean = static_cast<const A*>(args.mean);
  if (args.training) {
    if (args.shape.rows < 2) {
      internal_error("batch_norm: training needs at least two values per channel, got N*H*W = " +
                     std::to_string(args.shape.rows));
    }
    parallel_chunks(stream, walk.num_chunks, [&](Index chunk, int) {
      double* const partial = scratch.partial + 2 * chunk * walk.channels;
      chunk_statistics(walk, chunk, static_cast<const T*>(args.x), partial, partial + walk.channels);
    });
    finish_statistics<T>(stream, walk, args, scratch.partial);
    fill_column(walk, scratch.column[1], [&](Index c) {
      return value_or<A>(args.gamma, c, 1) * static_cast<double>(static_cast<const A*>(args.invstd)[c]);
    });
  } else {
    mean = static_cast<const A*>(args.running_mean);
    const A* const var = static_cast<const A*>(args.running_var);
    A* const invstd = static_cast<A*>(args.invstd);
    if (args.mean != nullptr) std::copy_n(mean, walk.channels, static_cast<A*>(args.mean));
    fill_column(walk, scratch.column[1], [&](Index c) {
      const A value = static_cast<A>(1.0 / std::sqrt(static_cast<double>(var[c]) + args.eps));
      if (invstd != nullptr) invstd[c] = value;
      return value_or<A>(args.gamma, c, 1) * static_cast<double>(value);
    });
  }
  fill_column(walk, scratch.column[0], [&](Index c) { return mean[c]; });
  fill_column(walk, scratch.column[2], [&](Index c) { return value_or<A>(args.beta, c, 0); });
  const bool residual = args.residual != nullptr;
  if (args.relu && residual) return normalise<T, true, true>(stream, walk, args, scratch.column);
  if (args.relu) return normalise<T, true, false>(stream, walk, args, scratch.column);
  if (residual) return normalise<T, false, true>(stream, walk, args, scratch.column);
  return normalise<T, false, false>(stream, walk, args, scratch.column);
}

enum class Residual { kNone, kOverwrite, kAccumulate };

// dz: the gradient behind the ReLU.
template <bool kMask, class T>
Accumulator<T> masked(const T* grad_y, const T* y, Index i) {
  using A = Accumulator<T>;
  const A g = load(grad_y, i);
  if constexpr (kMask) return load(y, i) > A{0} ? g : A{0};
  return g;
}

// Per chunk and channel: sum dz and sum dz (x - mean); writes grad_residual on the way.
template <class T, bool kMask, Residual kResidual>
void backward_sums(CpuStream stream, const Walk& walk, const BatchNormBackwardArgs& args,
                   const Accumulator<T>* mean, double* partial) {
  using A = Accumulator<T>;
  const T* const x = static_cast<const T*>(args.x);
  const T* const y = static_cast<const T*>(args.y);
  const T* const grad_y = static_cast<const T*>(args.grad_y);
  T* const grad_residual = static_cast<T*>(args.grad_residual);
  parallel_chunks(stream, walk.num_chunks, [&](Index chunk, int) {
    alignas(64) A sum[2][Walk::kMaxWidth];
    double* const sum_dz = partial + 2 * chunk * walk.channels;
    double* const sum_dz_x = sum_dz + walk.channels;
    std::fill_n(sum_dz, 2 * walk.channels, 0.0);
    for_blocks(walk, chunk, [&](Index begin, Index end, Index column, Index count) {
      sum_block(walk, begin, end, column, count, sum, [=](Index i, Index j) {
        const A dz = masked<kMask>(grad_y, y, i);
        if constexpr (kResidual == Residual::kOverwrite) store_exact(grad_residual, i, dz);
        if constexpr (kResidual == Residual::kAccumulate) {
          store(grad_residual, i, load(grad_residual, i) + dz);
        }
        return Pair<A>{dz, dz * (load(x, i) - mean[column + j])};
      });
      const Index channels = std::min(count, walk.channels);
#pragma omp simd
      for (Index c = 0; c < channels; ++c) {
        sum_dz[column + c] += static_cast<double>(sum[0][c]);
        sum_dz_x[column + c] += static_cast<double>(sum[1][c]);
      }
    });
  });
}

// grad_x of all rows: scale (dz - offset - (x - mean) slope), the last two terms in training only.
template <class T, bool kMask, bool kTraining, bool kAccumulate>
void backward_apply(CpuStream stream, const Walk& walk, const BatchNormBackwardArgs& args, const void* source,
                    Accumulator<T>* const (&column)[4]) {
  using A = Accumulator<T>;
  const T* const x = static_cast<const T*>(args.x);
  const T* const y = static_cast<const T*>(args.y);
  const T* const grad_y = static_cast<const T*>(source);
  T* const grad_x = static_cast<T*>(args.grad_x);
  const A* const mean = column[0];
  const A* const scale = column[1];
  const A* const offset_dz = column[2];
  const A* const slope = column[3];
  parallel_chunks(stream, walk.num_chunks, [&](Index reversed, int) {
    const Index chunk = walk.num_chunks - 1 - reversed;
    for_tile_rows(walk, walk.begin(chunk), walk.end(chunk), [&](Index offset, Index count) {
#pragma omp simd
      for (Index j = 0; j < count; ++j) {
        A value = masked<kMask>(grad_y, y, offset + j);
        if constexpr (kTraining) {
          value = (value - offset_dz[j]) - (load(x, offset + j) - mean[j]) * slope[j];
        }
        value *= scale[j];
        if constexpr (kAccumulate) value += load(grad_x, offset + j);
        store(grad_x, offset + j, value);
      }
    });
  });
}

template <class A>
void write_gradient(void* gradient, GradMode mode, Index c, double value) {
  if (gradient == nullptr) return;
  A& out = static_cast<A*>(gradient)[c];
  out = static_cast<A>(mode == GradMode::kAccumulate ? static_cast<double>(out) + value : value);
}

// Adds up the chunks in order; writes grad_gamma and grad_beta and, in training, the columns of
// backward_apply.
template <class A>
void finish_sums(CpuStream stream, const Walk& walk, const BatchNormBackwardArgs& args,
                 const Scratch<A>& scratch) {
  const A* const invstd = static_cast<const A*>(args.invstd);
  double* const sum_dz = scratch.partial;
  double* const sum_dz_x = scratch.partial + walk.channels;
  for_channels(stream, walk, [&](Index first, Index last) {
    for (Index chunk = 1; chunk < walk.num_chunks; ++chunk) {
      const double* other = scratch.partial + 2 * chunk * walk.channels;
#pragma omp simd
      for (Index c = first; c < last; ++c) {
        sum_dz[c] += other[c];
        sum_dz_x[c] += other[walk.channels + c];
      }
    }
    for (Index c = first; c < last; ++c) {
      write_gradient<A>(args.grad_gamma, args.grad_gamma_mode, c,
                        sum_dz_x[c] * static_cast<double>(invstd[c]));
      write_gradient<A>(args.grad_beta, args.grad_beta_mode, c, sum_dz[c]);
    }
  });
  const double inverse_rows = 1.0 / static_cast<double>(walk.rows);
  fill_column(walk, scratch.column[2], [&](Index c) { return sum_dz[c] * inverse_rows; });
  fill_column(walk, scratch.column[3], [&](Index c) {
    const double s = static_cast<double>(invstd[c]);
    return sum_dz_x[c] * s * s * inverse_rows;
  });
}

// f(std::true_type{}) or f(std::false_type{}).
template <class F>
void dispatch_bool(bool value, F&& f) {
  if (value) return f(std::true_type{});
  return f(std::false_type{});
}

template <class T>
void backward(CpuStream stream, const BatchNormBackwardArgs& args) {
  using A = Accumulator<T>;
  const Walk walk = walk_valid_rows(args);
  if (args.shape.rows == 0) return;
  const Scratch<A> scratch(walk, args.workspace);
  const A* const mean = static_cast<const A*>(args.mean);
  const A* const invstd = static_cast<const A*>(args.invstd);
  fill_column(walk, scratch.column[0], [&](Index c) { return mean[c]; });
  fill_column(walk, scratch.column[1],
              [&](Index c) { return value_or<A>(args.gamma, c, 1) * static_cast<double>(invstd[c]); });
  const bool overwrites_residual =
      args.grad_residual != nullptr && args.grad_residual_mode == GradMode::kOverwrite;
  if (args.training || args.grad_gamma != nullptr || args.grad_beta != nullptr ||
      args.grad_residual != nullptr) {
    dispatch_bool(args.relu, [&](auto mask) {
      constexpr bool kMask = decltype(mask)::value;
      if (args.grad_residual == nullptr) {
        backward_sums<T, kMask, Residual::kNone>(stream, walk, args, scratch.column[0], scratch.partial);
      } else if (overwrites_residual) {
        backward_sums<T, kMask, Residual::kOverwrite>(stream, walk, args, scratch.column[0], scratch.partial);
      } else {
        backward_sums<T, kMask, Residual::kAccumulate>(stream, walk, args, scratch.column[0],
                                                       scratch.partial);
      }
    });
    finish_sums<A>(stream, walk, args, scratch);
  }
  if (overwrites_residual) clear_padding(walk, args.shape, static_cast<T*>(args.grad_residual));
  if (args.grad_x == nullptr) return;
  const void* const source = overwrites_residual ? args.grad_residual : args.grad_y;
  dispatch_bool(args.relu && !overwrites_residual, [&](auto mask) {
    dispatch_bool(args.training, [&](auto training) {
      dispatch_bool(args.grad_x_mode == GradMode::kAccumulate, [&](auto accumulate) {
        backward_apply<T, decltype(mask)::value, decltype(training)::value, decltype(accumulate)::value>(
            stream, walk, args, source, scratch.column);
      });
    });
  });
  if (args.grad_x_mode == GradMode::kOverwrite) clear_padding(walk, args.shape, static_cast<T*>(args.grad_x));
}

}  // namespace

// At least 16384 elements a chunk (what a block has in flight), about 512 blocks over all channels (cut in
// slices of 32 or so), and at most 128: every block of the second kernel reads the partial sums of its
// channels again.
std::int64_t batch_norm_device_chunks(const BatchNormShape& shape) {
  const Index by_size = shape.rows * shape.channels / 16384;
  const Index by_blocks = 512 / (ceil_div(shape.channels, 32) + 1);
  return std::clamp<Index>(std::min(by_size, by_blocks), 1, 128);
}

std::size_t batch_norm_workspace(const BatchNormShape& shape) {
  const Walk walk(shape);
  const Index cpu = 2 * walk.most_chunks * walk.channels + 4 * walk.width;
  const Index device = 2 * batch_norm_device_chunks(shape) * shape.channels;
  return static_cast<std::size_t>(std::max(cpu, device)) * sizeof(double);
}

void batch_norm_forward(CpuStream stream, const BatchNormForwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { forward<T>(stream, args); });
}

void batch_norm_backward(CpuStream stream, const BatchNormBackwardArgs& args) {
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { backward<T>(stream, args); });
}

}  // namespace cohort::kernels
