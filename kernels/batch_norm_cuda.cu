// Two kernels per direction, no memset, no atomic and nothing that outlives the call: the first writes
// partial sums per chunk of rows, and every block of the second adds up those of its own channels before it
// applies them. The sums of a slice of channels are 16 KiB or so in the second-level cache, which costs less
// than a last block that finishes alone, and needs no counter that two streams could share.
//
// Threads: 256 a block; blockIdx.x is a slice of 4 vectors of channels (64 bytes of a row; 32 single channels
// where a row or a pointer is not aligned to 16 bytes), blockIdx.y a chunk of rows. `lanes` threads side by
// side read one row of the slice, 256 / lanes rows at a time; each thread has 8 (sums) or 4 (apply) rows of
// loads in flight. Second kernels walk the chunks backwards: what was read last is still in the cache.
//
// Forward sums: each thread takes eight rows into registers, less the first row of x, sums them, sums the
// squared deviations from their own mean, and merges that into its running pair; threads, then chunks, are
// merged by their group means. All in Accumulator<T>, in an order fixed by the shape; the division and the
// root per channel in double.
//
// Bytes moved: as the header says, the second reading of x (and of y, grad_y) from the cache where the tensor
// fits; plus 2 sums per channel and chunk. Shared memory: at most 18 KiB (bf16). Registers (ptxas, sm_90): 72
// to 128, no spill.
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>

#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/batch_norm.h"
#include "kernels/cuda/channel_sums.cuh"
#include "kernels/cuda/pack.cuh"

namespace cohort::kernels {
namespace {

using Index = std::int64_t;
using namespace channels;

constexpr int kApplyRows = 4;  // in flight per thread, except in the forward sums; see rows_in_flight

// Rows of `arrays` tensors, W channels each, that fit a thread's registers while it waits for them.
constexpr int rows_in_flight(int width, int arrays) {
  return width * arrays > 16 ? kApplyRows / 2 : kApplyRows;
}

// --- forward ---

// partial[chunk] = (totals, squares) per channel.
template <class T, int W>
__global__ __launch_bounds__(kBlock, 2) void statistics_kernel(Tiling t, const T* x,
                                                               Accumulator<T>* partial) {
  using A = Accumulator<T>;
  SIMT_SHARED(A, totals, [W][kBlock + kPadding]);
  SIMT_SHARED(A, squares, [W][kBlock + kPadding]);
  SIMT_SHARED(A, scratch, [kBlock]);
  t.find_valid();
  const int chunk = static_cast<int>(blockIdx.y);
  const Place<W> p(t, chunk, t.valid);
  Pack<T, W> shift{};
  if (p.channel < t.channels) shift = Pack<T, W>::load(x + p.channel);
  RunningMoments<T, W> moments;
  for (Index row = p.row; row < p.end; row += kSumRows * p.stride) {
    Pack<T, W> batch[kSumRows];
    const Index left = (p.end - row + p.stride - 1) / p.stride;
    const int n = left < kSumRows ? static_cast<int>(left) : kSumRows;
    const T* const from = x + row * t.channels + p.channel;
#pragma unroll
    for (int r = 0; r < kSumRows; ++r) {
      batch[r] = r < n ? Pack<T, W>::load(from + r * p.stride * t.channels) : shift;
    }
    if (n == kSumRows) {
      moments.template merge<true>(batch, shift, n);
    } else {
      moments.template merge<false>(batch, shift, n);
    }
  }
#pragma unroll
  for (int k = 0; k < W; ++k) {
    totals[k][threadIdx.x] = moments.total[k];
    squares[k][threadIdx.x] = moments.square[k];
  }
  __syncthreads();
  const int width = t.lanes * W;
  const Column<W> column(t, static_cast<int>(threadIdx.x) % width);
  const Index rows = p.end - p.begin;
  const Moments<A> sum = merge_items(
      scratch, width, p.stride, rows,
      [&](int i) { return rows > i ? (rows - i + p.stride - 1) / p.stride : 0; },
      [&](int i) { return column.at(totals, i); }, [&](int i) { return column.at(squares, i); });
  if (static_cast<int>(threadIdx.x) < width && column.channel() < t.channels) {
    A* const out = partial + 2 * chunk * t.channels + column.channel();
    out[0] = sum.total;
    out[t.channels] = sum.square;
  }
}

template <class T>
struct Forward {
  using A = Accumulator<T>;
  const T* x;
  const T* residual;
  T* y;
  const A* gamma;
  const A* beta;
  A* running_mean;
  A* running_var;
  A* mean;
  A* invstd;
  const A* partial;  // null: evaluation
  Index partial_rows;
  int num_partials;
  double eps, momentum;
  A floor;  // 0 with ReLU, else -infinity: nothing is below it
  std::uint8_t* mask;
};

// y = max(floor, (x - mean) scale + shift + residual), per channel of the slice.
template <class A>
struct ForwardColumns {
  A mean[kMostWidth];
  A scale[kMostWidth];
  A shift[kMostWidth];
};

// Statistics of one channel from its moments; the first block of the slice also writes what outlives the
// call.
template <class T>
__device__ void finish_statistics(const Tiling& t, const Forward<T>& f, Index channel, int c,
                                  const Moments<Accumulator<T>>& moments,
                                  ForwardColumns<Accumulator<T>>& columns) {
  using A = Accumulator<T>;
  double mean;
  double var;
  if (f.partial != nullptr) {
    mean = t.valid == 0 ? 0
                        : static_cast<double>(to_float(f.x[channel])) +
                              static_cast<double>(moments.total) / static_cast<double>(t.valid);
    var = static_cast<double>(moments.square) / static_cast<double>(t.divisor());
  } else {
    mean = static_cast<double>(f.running_mean[channel]);
    var = static_cast<double>(f.running_var[channel]);
  }
  const A invstd = static_cast<A>(1.0 / sqrt(var + f.eps));
  columns.mean[c] = static_cast<A>(mean);
  columns.scale[c] = f.gamma == nullptr ? invstd : f.gamma[channel] * invstd;
  columns.shift[c] = f.beta == nullptr ? A{0} : f.beta[channel];
  if (blockIdx.y != 0) return;
  if (f.mean != nullptr) f.mean[channel] = static_cast<A>(mean);
  if (f.invstd != nullptr) f.invstd[channel] = invstd;
  if (f.partial == nullptr || t.valid < 2) return;
  if (f.running_mean != nullptr) {
    const double old = static_cast<double>(f.running_mean[channel]);
    f.running_mean[channel] = static_cast<A>((1 - f.momentum) * old + f.momentum * mean);
  }
  if (f.running_var != nullptr) {
    const double old = static_cast<double>(f.running_var[channel]);
    const double unbiased = static_cast<double>(moments.square) / static_cast<double>(t.valid - 1);
    f.running_var[channel] = static_cast<A>((1 - f.momentum) * old + f.momentum * unbiased);
  }
}

template <class T, int W>
__device__ void forward_columns(const Tiling& t, const Forward<T>& f,
                                ForwardColumns<Accumulator<T>>& columns) {
  using A = Accumulator<T>;
  SIMT_SHARED(A, scratch, [kBlock]);
  const int width = t.lanes * W;
  const int c = static_cast<int>(threadIdx.x) % width;
  const Index channel = static_cast<Index>(blockIdx.x) * width + c;
  const bool active = channel < t.channels;
  Moments<A> moments{};
  if (f.partial != nullptr) {
    const A* const partial = f.partial + channel;
    const auto rows = [&](int i) {
      const Index begin = i * f.partial_rows;
      return begin + f.partial_rows < t.valid ? f.partial_rows : t.valid > begin ? t.valid - begin : 0;
    };
    moments = merge_items(
        scratch, width, f.num_partials, t.valid, rows,
        [&](int i) { return active ? partial[2 * i * t.channels] : A{0}; },
        [&](int i) { return active ? partial[(2 * i + 1) * t.channels] : A{0}; });
  }
  if (static_cast<int>(threadIdx.x) < width && active) finish_statistics(t, f, channel, c, moments, columns);
  __syncthreads();
}

template <class T, int W, bool kResidual>
__global__ __launch_bounds__(kBlock, 2) void normalise_kernel(Tiling t, Forward<T> f) {
  using A = Accumulator<T>;
  SIMT_SHARED(ForwardColumns<A>, columns, [1]);
  t.find_valid();
  const Place<W> p(t, t.num_chunks - 1 - static_cast<int>(blockIdx.y), t.rows);
  const Index limit = p.end < t.valid ? p.end : t.valid;
  Pack<T, W> x[kApplyRows] = {}, residual[kApplyRows] = {};
  const auto load = [&](Index row) {
#pragma unroll
    for (int r = 0; r < kApplyRows; ++r) {
      const Index at = (row + r * p.stride) * t.channels + p.channel;
      if (row + r * p.stride >= limit) continue;
      x[r] = Pack<T, W>::load(f.x + at);
      if constexpr (kResidual) residual[r] = Pack<T, W>::load(f.residual + at);
    }
  };
  load(p.row);  // on their way while the statistics are finished
  forward_columns<T, W>(t, f, columns[0]);
  A mean[W], scale[W], shift[W];
#pragma unroll
  for (int k = 0; k < W; ++k) {
    const int c = static_cast<int>(threadIdx.x) % t.lanes * W + k;
    mean[k] = columns[0].mean[c];
    scale[k] = columns[0].scale[c];
    shift[k] = columns[0].shift[c];
  }
  for (Index row = p.row; row < p.end; row += kApplyRows * p.stride) {
    if (row != p.row) load(row);
#pragma unroll
    for (int r = 0; r < kApplyRows; ++r) {
      T* const out = f.y + (row + r * p.stride) * t.channels + p.channel;
      if (row + r * p.stride >= p.end) continue;
      if (row + r * p.stride >= limit) {
        Pack<T, W>{}.store(out);
        continue;
      }
#pragma unroll
      for (int k = 0; k < W; ++k) {
        A value = (x[r][k] - mean[k]) * scale[k] + shift[k];
        if constexpr (kResidual) value += residual[r][k];
        x[r][k] = value < f.floor ? f.floor : value;
      }
      x[r].store(out);
      if (f.mask != nullptr) f.mask[(out - f.y) / W] = positive_bits(x[r]);
    }
  }
}

// --- backward ---

template <class T>
struct Backward {
  using A = Accumulator<T>;
  const T* x;
  const T* y;
  const std::uint8_t* mask;
  const T* grad_y;
  T* grad_x;
  T* grad_residual;
  const A* gamma;
  const A* mean;
  const A* invstd;
  A* grad_gamma;
  A* grad_beta;
  A* partial;  // written by the sums, read by the apply; null: no sums are needed
  int num_partials;
  bool accumulate_x, accumulate_residual, accumulate_gamma, accumulate_beta;
  bool training;
};

// Where the ReLU let values through: bit k of a pack.
enum class Relu { kNone, kFromY, kFromMask };

template <class T, int W, Relu kRelu>
struct Gate {
  unsigned bits = 0;

  __device__ void load(const Backward<T>& b, Index at) {
    if constexpr (kRelu == Relu::kFromY) bits = positive_bits(Pack<T, W>::load(b.y + at));
    if constexpr (kRelu == Relu::kFromMask) bits = b.mask[at / W];
  }
  template <class A>
  __device__ A operator()(int k, A value) const {
    return kRelu == Relu::kNone || (bits >> k & 1U) != 0 ? value : A{0};
  }
};

constexpr int num_arrays(Relu relu) {
  return relu == Relu::kFromY ? 3 : 2;
}

// partial[chunk] = (sum dz, sum dz (x - mean)) per channel; writes grad_residual on the way.
template <class T, int W, Relu kRelu>
__global__ __launch_bounds__(kBlock, 2) void backward_sums_kernel(Tiling t, Backward<T> b) {
  using A = Accumulator<T>;
  constexpr int kRows = rows_in_flight(W, num_arrays(kRelu));
  SIMT_SHARED(A, sums, [W][kBlock + kPadding]);
  SIMT_SHARED(A, sums_x, [W][kBlock + kPadding]);
  SIMT_SHARED(A, scratch, [kBlock]);
  t.find_valid();
  const int chunk = static_cast<int>(blockIdx.y);
  const Place<W> p(t, chunk, t.rows);
  const Index limit = p.end < t.valid ? p.end : t.valid;
  const bool clears = b.grad_residual != nullptr && !b.accumulate_residual;
  A mean[W], sum[W], sum_x[W];
#pragma unroll
  for (int k = 0; k < W; ++k) {
    mean[k] = p.channel < t.channels ? b.mean[p.channel + k] : A{0};
    sum[k] = sum_x[k] = 0;
  }
  for (Index row = p.row; row < p.end; row += kRows * p.stride) {
    Pack<T, W> x[kRows] = {}, dz[kRows] = {};
    Gate<T, W, kRelu> gate[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Index at = (row + r * p.stride) * t.channels + p.channel;
      if (row + r * p.stride >= limit) continue;
      x[r] = Pack<T, W>::load(b.x + at);
      dz[r] = Pack<T, W>::load(b.grad_y + at);
      gate[r].load(b, at);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Index at = (row + r * p.stride) * t.channels + p.channel;
      if (row + r * p.stride >= p.end) continue;
      if (row + r * p.stride >= limit) {
        if (clears) Pack<T, W>{}.store(b.grad_residual + at);
        continue;
      }
#pragma unroll
      for (int k = 0; k < W; ++k) {
        dz[r][k] = gate[r](k, dz[r][k]);
        sum[k] += dz[r][k];
        sum_x[k] += dz[r][k] * (x[r][k] - mean[k]);
      }
      if (b.grad_residual == nullptr) continue;
      if (b.accumulate_residual) {
        const Pack<T, W> old = Pack<T, W>::load(b.grad_residual + at);
#pragma unroll
        for (int k = 0; k < W; ++k) dz[r][k] += old[k];
      }
      dz[r].store(b.grad_residual + at);
    }
  }
#pragma unroll
  for (int k = 0; k < W; ++k) {
    sums[k][threadIdx.x] = sum[k];
    sums_x[k][threadIdx.x] = sum_x[k];
  }
  __syncthreads();
  const int width = t.lanes * W;
  const Column<W> column(t, static_cast<int>(threadIdx.x) % width);
  const A total = sum_items(scratch, width, p.stride, [&](int i) { return column.at(sums, i); });
  const A total_x = sum_items(scratch, width, p.stride, [&](int i) { return column.at(sums_x, i); });
  if (static_cast<int>(threadIdx.x) < width && column.channel() < t.channels) {
    A* const out = b.partial + 2 * chunk * t.channels + column.channel();
    out[0] = total;
    out[t.channels] = total_x;
  }
}

// grad_x = scale (dz - offset - (x - mean) slope), per channel of the slice.
template <class A>
struct BackwardColumns {
  A mean[kMostWidth];
  A scale[kMostWidth];
  A offset[kMostWidth];
  A slope[kMostWidth];
};

template <class A>
__device__ void write_gradient(A* gradient, bool accumulate, Index channel, A value) {
  if (gradient != nullptr) gradient[channel] = accumulate ? gradient[channel] + value : value;
}

template <class T, int W>
__device__ void backward_columns(const Tiling& t, const Backward<T>& b,
                                 BackwardColumns<Accumulator<T>>& columns) {
  using A = Accumulator<T>;
  SIMT_SHARED(A, scratch, [kBlock]);
  const int width = t.lanes * W;
  const int c = static_cast<int>(threadIdx.x) % width;
  const Index channel = static_cast<Index>(blockIdx.x) * width + c;
  const bool active = channel < t.channels;
  A sum = 0;
  A sum_x = 0;
  if (b.partial != nullptr) {
    const A* const partial = b.partial + channel;
    sum = sum_items(scratch, width, b.num_partials,
                    [&](int i) { return active ? partial[2 * i * t.channels] : A{0}; });
    sum_x = sum_items(scratch, width, b.num_partials,
                      [&](int i) { return active ? partial[(2 * i + 1) * t.channels] : A{0}; });
  }
  if (static_cast<int>(threadIdx.x) < width && active) {
    const A invstd = b.invstd[channel];
    const A inverse_rows = A{1} / static_cast<A>(t.divisor());
    columns.mean[c] = b.mean[channel];
    columns.scale[c] = b.gamma == nullptr ? invstd : b.gamma[channel] * invstd;
    columns.offset[c] = sum * inverse_rows;
    columns.slope[c] = sum_x * invstd * invstd * inverse_rows;
    if (blockIdx.y == 0) {
      write_gradient(b.grad_gamma, b.accumulate_gamma, channel, sum_x * invstd);
      write_gradient(b.grad_beta, b.accumulate_beta, channel, sum);
    }
  }
  __syncthreads();
}

template <class T, int W, Relu kRelu>
__global__ __launch_bounds__(kBlock, 2) void backward_apply_kernel(Tiling t, Backward<T> b) {
  using A = Accumulator<T>;
  constexpr int kRows = rows_in_flight(W, num_arrays(kRelu));
  SIMT_SHARED(BackwardColumns<A>, columns, [1]);
  t.find_valid();
  Place<W> p(t, t.num_chunks - 1 - static_cast<int>(blockIdx.y), t.rows);
  const Index limit = p.end < t.valid ? p.end : t.valid;
  if (b.grad_x == nullptr) p.row = p.end;
  Pack<T, W> x[kRows] = {}, dz[kRows] = {};
  Gate<T, W, kRelu> gate[kRows];
  const auto load = [&](Index row) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Index at = (row + r * p.stride) * t.channels + p.channel;
      if (row + r * p.stride >= limit) continue;
      dz[r] = Pack<T, W>::load(b.grad_y + at);
      if (b.training) x[r] = Pack<T, W>::load(b.x + at);
      gate[r].load(b, at);
    }
  };
  load(p.row);  // on their way while the sums are added up
  backward_columns<T, W>(t, b, columns[0]);
  A mean[W], scale[W], offset[W], slope[W];
#pragma unroll
  for (int k = 0; k < W; ++k) {
    const int c = static_cast<int>(threadIdx.x) % t.lanes * W + k;
    mean[k] = columns[0].mean[c];
    scale[k] = columns[0].scale[c];
    offset[k] = columns[0].offset[c];
    slope[k] = columns[0].slope[c];
  }
  for (Index row = p.row; row < p.end; row += kRows * p.stride) {
    if (row != p.row) load(row);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      T* const out = b.grad_x + (row + r * p.stride) * t.channels + p.channel;
      if (row + r * p.stride >= p.end) continue;
      if (row + r * p.stride >= limit) {
        if (!b.accumulate_x) Pack<T, W>{}.store(out);
        continue;
      }
#pragma unroll
      for (int k = 0; k < W; ++k) {
        A value = gate[r](k, dz[r][k]);
        if (b.training) value = (value - offset[k]) - (x[r][k] - mean[k]) * slope[k];
        dz[r][k] = value * scale[k];
      }
      if (b.accumulate_x) {
        const Pack<T, W> old = Pack<T, W>::load(out);
#pragma unroll
        for (int k = 0; k < W; ++k) dz[r][k] += old[k];
      }
      dz[r].store(out);
    }
  }
}

// --- launches ---

// Four blocks a multiprocessor of the largest device (132 on H100), fewer where that leaves a thread without
// four rows.
template <int W>
Tiling apply_tiling(const BatchNormShape& shape, const ValidRows& limit) {
  constexpr Index kBlocks = 528;
  const int lanes = lanes_of<W>(shape);
  const Index slices = grid_size(shape.channels, lanes * W);
  const Index rows_at_once = kBlock / lanes * kApplyRows;
  const Index useful = (shape.rows + rows_at_once - 1) / rows_at_once;
  return tiling<W>(shape, limit,
                   std::clamp<Index>(useful, 1, std::max<Index>(1, kBlocks / std::max<Index>(1, slices))));
}

template <class Args>
ValidRows limit_of(const Args& args) {
  return {args.valid_images, args.rows_per_image};
}

template <class T>
Accumulator<T>* partial_sums(const BatchNormShape& shape, Workspace workspace) {
  check(workspace.size() >= batch_norm_workspace(shape), "batch_norm: workspace too small");
  return reinterpret_cast<Accumulator<T>*>(workspace.data());
}

template <class T>
void forward(CudaStream stream, const BatchNormForwardArgs& args) {
  using A = Accumulator<T>;
  if (args.training && args.shape.rows < 2) {
    internal_error("batch_norm: training needs at least two values per channel, got N*H*W = " +
                   std::to_string(args.shape.rows));
  }
  Forward<T> f{.x = static_cast<const T*>(args.x),
               .residual = static_cast<const T*>(args.residual),
               .y = static_cast<T*>(args.y),
               .gamma = static_cast<const A*>(args.gamma),
               .beta = static_cast<const A*>(args.beta),
               .running_mean = static_cast<A*>(args.running_mean),
               .running_var = static_cast<A*>(args.running_var),
               .mean = static_cast<A*>(args.mean),
               .invstd = static_cast<A*>(args.invstd),
               .partial = nullptr,
               .partial_rows = 0,
               .num_partials = 0,
               .eps = args.eps,
               .momentum = args.momentum,
               .floor = args.relu ? A{0} : -std::numeric_limits<A>::infinity(),
               .mask = args.mask};
  dispatch_width<T>(args.shape, {args.x, args.residual, args.y}, [&](auto width) {
    constexpr int kW = decltype(width)::value;
    check(args.mask == nullptr || (args.relu && kW > 1), "batch_norm: no mask for this call");
    if (args.training) {
      A* const partial = partial_sums<T>(args.shape, args.workspace);
      const Tiling t = tiling<kW>(args.shape, limit_of(args), batch_norm_device_chunks(args.shape));
      simt::launch(statistics_kernel<T, kW>, config_of<kW>(stream, t), t, f.x, partial);
      f.partial = partial;
      f.partial_rows = t.chunk_rows;
      f.num_partials = t.num_chunks;
    }
    const Tiling t = apply_tiling<kW>(args.shape, limit_of(args));
    if (f.residual != nullptr)
      return simt::launch(normalise_kernel<T, kW, true>, config_of<kW>(stream, t), t, f);
    simt::launch(normalise_kernel<T, kW, false>, config_of<kW>(stream, t), t, f);
  });
}

// f(std::integral_constant<Relu, ...>)
template <int W, class F>
void dispatch_relu(bool relu, const std::uint8_t* mask, F&& f) {
  if (!relu) return f(std::integral_constant<Relu, Relu::kNone>{});
  if constexpr (W > 1) {
    if (mask != nullptr) return f(std::integral_constant<Relu, Relu::kFromMask>{});
  }
  check(mask == nullptr, "batch_norm: no mask for this call");
  f(std::integral_constant<Relu, Relu::kFromY>{});
}

template <class T, int W>
void launch_sums(CudaStream stream, const BatchNormBackwardArgs& args, Backward<T>& b) {
  b.partial = partial_sums<T>(args.shape, args.workspace);
  const Tiling t = tiling<W>(args.shape, limit_of(args), batch_norm_device_chunks(args.shape));
  b.num_partials = t.num_chunks;
  dispatch_relu<W>(args.relu, args.mask, [&](auto relu) {
    simt::launch(backward_sums_kernel<T, W, decltype(relu)::value>, config_of<W>(stream, t), t, b);
  });
}

template <class T>
void backward(CudaStream stream, const BatchNormBackwardArgs& args) {
  using A = Accumulator<T>;
  if (args.shape.rows == 0) return;
  Backward<T> b{.x = static_cast<const T*>(args.x),
                .y = static_cast<const T*>(args.y),
                .mask = args.mask,
                .grad_y = static_cast<const T*>(args.grad_y),
                .grad_x = static_cast<T*>(args.grad_x),
                .grad_residual = static_cast<T*>(args.grad_residual),
                .gamma = static_cast<const A*>(args.gamma),
                .mean = static_cast<const A*>(args.mean),
                .invstd = static_cast<const A*>(args.invstd),
                .grad_gamma = static_cast<A*>(args.grad_gamma),
                .grad_beta = static_cast<A*>(args.grad_beta),
                .partial = nullptr,
                .num_partials = 0,
                .accumulate_x = args.grad_x_mode == GradMode::kAccumulate,
                .accumulate_residual = args.grad_residual_mode == GradMode::kAccumulate,
                .accumulate_gamma = args.grad_gamma_mode == GradMode::kAccumulate,
                .accumulate_beta = args.grad_beta_mode == GradMode::kAccumulate,
                .training = args.training};
  const bool wants_parameters = b.grad_gamma != nullptr || b.grad_beta != nullptr;
  dispatch_width<T>(
      args.shape,
      {b.x, args.relu && args.mask == nullptr ? b.y : nullptr, b.grad_y, b.grad_x, b.grad_residual},
      [&](auto width) {
        constexpr int kW = decltype(width)::value;
        const bool wants_sums = wants_parameters || (args.training && b.grad_x != nullptr);
        if (wants_sums || b.grad_residual != nullptr) launch_sums<T, kW>(stream, args, b);
        if (!wants_parameters && b.grad_x == nullptr) return;
        bool relu = args.relu;
        if (b.grad_residual != nullptr && !b.accumulate_residual) {  // it holds dz now
          b.grad_y = b.grad_residual;
          relu = false;
        }
        Tiling t = apply_tiling<kW>(args.shape, limit_of(args));
        simt::LaunchConfig config = config_of<kW>(stream, t);
        if (b.grad_x == nullptr) config.grid.y = 1;  // only the parameters' gradients
        dispatch_relu<kW>(relu, args.mask, [&](auto gate) {
          simt::launch(backward_apply_kernel<T, kW, decltype(gate)::value>, config, t, b);
        });
      });
}

}  // namespace

void batch_norm_forward(CudaStream stream, const BatchNormForwardArgs& args) {
  const Rehearsed rehearsed(stream, "batch_norm_forward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { forward<T>(stream, args); });
}

void batch_norm_backward(CudaStream stream, const BatchNormBackwardArgs& args) {
  const Rehearsed rehearsed(stream, "batch_norm_backward", traffic(args));
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { backward<T>(stream, args); });
}

}  // namespace cohort::kernels
