// One launch. A block of 256 threads has 512 pixels of one row; grid rows * (tiles of 32x16 pixels). Who is
// perturbed and how is a few draws from (seed, step), so every block makes them itself, and what a row needs
// of the permutations, the ranks of its keys among the batch's, too: B Philox blocks for each of them, one
// exact sum. Rows read a clean batch, nobody waits for another block. What a block does:
//
//   moved, mixed : 512 consecutive pixels, a thread per pixel
//   noise        : the same, four values a thread, one Philox block
//   elastic      : a tile; the displacements are made in shared memory, both passes of the smoothing. Where
//                  rows share a field a block takes several of them, at least 1024 blocks as long as there
//                  are so many
//   jitter       : the first block of a row has all of it: the mean grey first, then tile by tile the changed
//                  colours with a border in shared memory and the blur
//
// In a step without perturbation only the plan is written.
//
// Every operation gives the CPU's bits (kernels/perturb_math.h). Bytes: kernels/perturb.h.
// Shared memory: 0.5 KiB; with kElastic in the pool 4 (2r + 1 + 16 (32 + 2r) + 64 (16 + 2r)) bytes, r the
// radius of the smoothing (13 KiB at 32x32, 36 KiB at 224x224), with kJitter a tile with its border.
// Registers (sm_90): 79, no spill; 272 bytes of stack, of the one thread that draws. Not timed on a GPU yet.
#include <algorithm>

#include "kernels/base/rehearsal.h"
#include "kernels/base/valid_rows.h"
#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/simt.cuh"
#include "kernels/perturb.h"

namespace cohort::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTileWidth = 32, kTileHeight = 16;  // one lane per column
constexpr int kPixelsPerBlock = kTileWidth * kTileHeight;
constexpr int kMaxBatches = 16;
constexpr int kElasticBlocks = 1024;

template <class T>
struct Job {
  using A = Accumulator<T>;
  const std::int32_t* labels;
  const std::int32_t* step;
  const std::int32_t* valid_rows;
  std::int32_t* member;
  std::int32_t* operation;
  std::int32_t* moved_member;
  std::int32_t* mixed_labels;
  std::int32_t* permutations;
  A* label_weights;
  int batch_size, height, width, channels;
  int tiles, tiles_across;  // per row
  int num_members;
  std::uint64_t seed;
  PerturbUnits<A> units;
  PerturbOptions options;
  PerturbSource<T> black;  // without images
  const T* sources[kMaxBatches];
  T* batches[kMaxBatches];

  __device__ int pixels() const { return height * width; }
};

// One step's choice, in registers.
template <class T>
struct Step {
  const Job<T>& job;
  PerturbChoice choice;
  std::uint32_t step, member;
  PerturbSource<T> source;
  T* batch;
  std::int64_t rows;

  __device__ explicit Step(const Job<T>& j)
      : job(j),
        choice(choose_perturbation(j.options, j.seed, static_cast<std::uint32_t>(*j.step), j.num_members)),
        step(static_cast<std::uint32_t>(*j.step)),
        member(static_cast<std::uint32_t>(choice.member)),
        source(j.black),
        batch(choice.member < 0 ? nullptr : j.batches[choice.member]),
        rows(count_valid(j.valid_rows, j.batch_size)) {
    if (choice.member >= 0) source.images = j.sources[choice.member];
  }
  __device__ PerturbDraw draw(PerturbOp op, std::int64_t b) const {
    return draw_perturb(op, job.options, job.seed, member, step, static_cast<std::uint32_t>(b), job.height,
                        job.width);
  }
};

// --- the plan ---

// Where row b < rows comes in the three permutations: the ranks of its keys, by the whole block.
template <class T>
__device__ void find_partners(const Step<T>& step, int b, int (&partner)[3]) {
  constexpr int kBits = 21;  // of a rank, so that one sum has all three
  const auto key = [&](int which, int row) {
    return permutation_key(step.job.seed, step.step, static_cast<std::uint32_t>(which),
                           static_cast<std::uint32_t>(row));
  };
  long long ranks = 0;
  for (int which = 0; which < 3; ++which) {
    const std::uint32_t mine = key(which, b);
    long long before = 0;
    for (int row = static_cast<int>(threadIdx.x); row < step.rows; row += kThreads) {
      const std::uint32_t other = key(which, row);
      before += other < mine || (other == mine && row < b) ? 1 : 0;
    }
    ranks |= before << (which * kBits);
  }
  ranks = block_sum(ranks);
  for (int which = 0; which < 3; ++which)
    partner[which] = static_cast<int>(ranks >> (which * kBits) & ((1LL << kBits) - 1));
}

// By one thread.
template <class T>
__device__ void write_plan(const Step<T>& step, int b, bool valid, const PerturbDraw& draw) {
  using A = Accumulator<T>;
  const Job<T>& job = step.job;
  float weights[4];
  label_weights(valid ? step.choice.op : PerturbOp::kNone, draw, job.height, job.width, weights);
  for (int k = 0; k < 4; ++k) job.label_weights[4 * b + k] = static_cast<A>(weights[k]);
  job.mixed_labels[4 * b] = job.labels[b];
  for (int k = 0; k < 3; ++k) {
    job.permutations[static_cast<std::int64_t>(k) * job.batch_size + b] = draw.partner[k];
    job.mixed_labels[4 * b + 1 + k] = job.labels[draw.partner[k]];
  }
  if (b != 0) return;
  *job.member = step.choice.member;
  *job.operation = static_cast<std::int32_t>(step.choice.op);
  if (job.moved_member != nullptr) *job.moved_member = is_geometric(step.choice.op) ? step.choice.member : -1;
}

// --- pixels of a row, 512 of them in order ---

template <PerturbOp kOp, class T>
__device__ void move_pixels(const Step<T>& step, const PerturbDraw& draw, std::int64_t b, int begin,
                            int end) {
  const PerturbSource<T>& s = step.source;
  T* const out = step.batch + b * step.job.pixels() * s.channels;
  for (int p = begin + static_cast<int>(threadIdx.x); p < end; p += kThreads) {
    const int y = p / s.width;
    const int x = p - y * s.width;
    for (int c = 0; c < s.channels; ++c) {
      out[p * s.channels + c] = T(moved_value<kOp>(s, draw, nullptr, b, y, x, c));
    }
  }
}

template <class T>
__device__ void add_noise(const Step<T>& step, const PerturbDraw& draw, std::int64_t b, int begin, int end) {
  using A = Accumulator<T>;
  const int channels = step.job.channels;
  const std::int64_t row = b * step.job.pixels() * channels;
  const T* const in = step.source.images + row;
  T* const out = step.batch + row;
  const A sigma = static_cast<A>(draw.sigma);
  const PerturbUnits<A>& units = step.job.units;
  const RngAddress address =
      noise_address(step.job.seed, step.member, step.step, static_cast<std::uint32_t>(b));
  for (int i = begin * channels + static_cast<int>(threadIdx.x) * 4; i < end * channels; i += kThreads * 4) {
    float normals[4];
    four_normals(address, static_cast<std::uint32_t>(i / 4), normals);
    int c = i % channels;
    for (int k = 0; k < 4 && i + k < end * channels; ++k) {
      const A value =
          clamp01(std::fma(sigma, static_cast<A>(normals[k]), units.into(static_cast<A>(in[i + k]), c)));
      out[i + k] = T(units.back(value, c));
      c = c + 1 == channels ? 0 : c + 1;
    }
  }
}

// --- elastic ---

// The parts of the dynamic shared memory, for a smoothing of radius r.
struct FieldMemory {
  float* weights;   // (2r + 1)
  float* noise;     // (kWarps, kTileWidth + 2r, 2): a row of noise per warp
  float* smoothed;  // (kTileHeight + 2r, kTileWidth, 2): along x
};

__host__ __device__ constexpr int field_memory_floats(int radius) {
  return 2 * radius + 1 + 2 * (kWarps * (kTileWidth + 2 * radius) + (kTileHeight + 2 * radius) * kTileWidth);
}

__device__ FieldMemory field_memory(unsigned char* raw, int radius) {
  auto* const floats = reinterpret_cast<float*>(raw);
  float* const noise = floats + 2 * radius + 1;
  return {floats, noise, noise + kWarps * (kTileWidth + 2 * radius) * 2};
}

// Rows of noise smoothed along x, one warp per row: the tile's and r above and below.
__device__ void smooth_along_x(const FieldMemory& memory, const RngAddress& address, int radius, int y0,
                               int x0, int height, int width) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int extent = kTileWidth + 2 * radius;
  float* const noise = memory.noise + warp * extent * 2;
  for (int j = warp; j < kTileHeight + 2 * radius; j += kWarps) {
    const int y = reflect(y0 - radius + j, height);
    for (int i = lane; i < extent; i += kWarp) {
      const int at = (y * width + reflect(x0 - radius + i, width)) * 2;
      for (int axis = 0; axis < 2; ++axis) {
        Rng rng(address, static_cast<std::uint32_t>(at + axis));
        noise[2 * i + axis] = draw_between(rng, -1.0F, 1.0F);
      }
    }
    __syncwarp();
    float sum[2] = {0.0F, 0.0F};
    for (int k = 0; k <= 2 * radius; ++k) {
      sum[0] = std::fma(memory.weights[k], noise[2 * (lane + k)], sum[0]);
      sum[1] = std::fma(memory.weights[k], noise[2 * (lane + k) + 1], sum[1]);
    }
    memory.smoothed[(j * kTileWidth + lane) * 2] = sum[0];
    memory.smoothed[(j * kTileWidth + lane) * 2 + 1] = sum[1];
    __syncwarp();
  }
}

// Row b of a tile, and the rows after it that share its field.
template <class T>
__device__ void move_elastically(const Step<T>& step, std::int64_t b, int tile, unsigned char* raw) {
  const Job<T>& job = step.job;
  const int radius = elastic_radius(job.options.elastic_sigma);
  const FieldMemory memory = field_memory(raw, radius);
  SIMT_SHARED(float, scale, [1]);
  std::int64_t stride = step.rows;
  if (!job.options.per_sample) {
    stride = (kElasticBlocks + job.tiles - 1) / job.tiles;
    if (b >= stride) return;
  }
  if (threadIdx.x == 0) {
    const float squares = gaussian_weights(job.options.elastic_sigma, radius, memory.weights);
    scale[0] = elastic_scale(job.options.elastic_alpha, squares);
  }
  __syncthreads();
  const int y0 = tile / job.tiles_across * kTileHeight;
  const int x0 = tile % job.tiles_across * kTileWidth;
  const auto field = static_cast<std::uint32_t>(job.options.per_sample ? b : 0);
  smooth_along_x(memory, elastic_address(job.seed, step.member, step.step, field), radius, y0, x0, job.height,
                 job.width);
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kPixelsPerBlock; i += kThreads) {
    const int y = y0 + i / kTileWidth;
    const int x = x0 + i % kTileWidth;
    if (y >= job.height || x >= job.width) continue;
    float displacement[2];
    for (int axis = 0; axis < 2; ++axis) {
      float sum = 0.0F;
      for (int k = 0; k <= 2 * radius; ++k) {
        sum =
            std::fma(memory.weights[k],
                     memory.smoothed[(i / kTileWidth + k) * kTileWidth * 2 + i % kTileWidth * 2 + axis], sum);
      }
      displacement[axis] = sum * scale[0];
    }
    for (std::int64_t row = b; row < step.rows; row += stride) {
      T* const out = step.batch + ((row * job.height + y) * job.width + x) * job.channels;
      for (int c = 0; c < job.channels; ++c)
        out[c] = T(moved_value<PerturbOp::kElastic>(step.source, {}, displacement, row, y, x, c));
    }
  }
}

// --- jitter ---

struct BlurWeights {
  float x[kMaxBlur], y[kMaxBlur];
};

__host__ __device__ constexpr int blur_radius(int width) {
  return (width < kMaxBlur ? width : kMaxBlur) / 2;
}

// Values of a tile and the border that the blur reads.
__host__ __device__ constexpr int blur_memory(const PerturbOptions& options, int channels) {
  return (kTileWidth + 2 * blur_radius(options.blur_width)) *
         (kTileHeight + 2 * blur_radius(options.blur_height)) * channels;
}

// The pixel in the domain's units after the steps [0, last) of the drawn order.
template <class T, class A>
__device__ void changed_colours(const Step<T>& step, const PerturbDraw& draw, const T* in, int last, A mean,
                                int channels, A (&pixel)[kMaxImageChannels]) {
#pragma unroll
  for (int c = 0; c < kMaxImageChannels; ++c) {
    if (c < channels) pixel[c] = step.job.units.into(static_cast<A>(in[c]), c);
  }
  for (int i = 0; i < last; ++i) {
    const int which = draw.order[i];
    jitter_pixel(which, static_cast<A>(draw.factor[which]), mean, channels, pixel);
  }
}

template <class T, class A>
__device__ void blur_tile(const Step<T>& step, const BlurWeights& g, const A* memory, int y0, int x0,
                          int channels, T* out) {
  const Job<T>& job = step.job;
  const int rx = blur_radius(job.options.blur_width);
  const int ry = blur_radius(job.options.blur_height);
  const int extent = kTileWidth + 2 * rx;
  for (int i = static_cast<int>(threadIdx.x); i < kPixelsPerBlock; i += kThreads) {
    const int y = y0 + i / kTileWidth;
    const int x = x0 + i % kTileWidth;
    if (y >= job.height || x >= job.width) continue;
    for (int c = 0; c < channels; ++c) {
      A sum = A(0);
      for (int j = 0; j <= 2 * ry; ++j) {
        const A* const in = memory + ((i / kTileWidth + j) * extent + i % kTileWidth) * channels + c;
        A row = A(0);
        for (int k = 0; k <= 2 * rx; ++k) row = std::fma(static_cast<A>(g.x[k]), in[k * channels], row);
        sum = std::fma(static_cast<A>(g.y[j]), row, sum);
      }
      out[(y * job.width + x) * channels + c] = T(job.units.back(sum, c));
    }
  }
}

// By the block that has the whole row.
template <class T>
__device__ void jitter_row(const Step<T>& step, const PerturbDraw& draw, std::int64_t b, unsigned char* raw) {
  using A = Accumulator<T>;
  SIMT_SHARED(BlurWeights, blur, [1]);
  const Job<T>& job = step.job;
  const int channels = job.channels;
  const std::int64_t row = b * job.pixels() * channels;
  const T* const in = step.source.images + row;
  A* const memory = reinterpret_cast<A*>(raw);
  const int rx = blur_radius(job.options.blur_width);
  const int ry = blur_radius(job.options.blur_height);
  if (threadIdx.x == 0) {
    gaussian_weights(draw.sigma, rx, blur[0].x);
    gaussian_weights(draw.sigma, ry, blur[0].y);
  }
  int contrast = 0;
  while (contrast < 3 && draw.order[contrast] != 1) ++contrast;
  A pixel[kMaxImageChannels] = {};
  long long units = 0;
  for (int p = static_cast<int>(threadIdx.x); p < job.pixels(); p += kThreads) {
    changed_colours(step, draw, in + p * channels, contrast, A(0), channels, pixel);
    units += grey_units(grey(pixel, channels));
  }
  const A mean = static_cast<A>(mean_of_units(block_sum(units), job.pixels()));
  const int extent = kTileWidth + 2 * rx;
  for (int tile = 0; tile < job.tiles; ++tile) {
    const int y0 = tile / job.tiles_across * kTileHeight;
    const int x0 = tile % job.tiles_across * kTileWidth;
    for (int i = static_cast<int>(threadIdx.x); i < extent * (kTileHeight + 2 * ry); i += kThreads) {
      const int y = reflect(y0 - ry + i / extent, job.height);
      const int x = reflect(x0 - rx + i % extent, job.width);
      changed_colours(step, draw, in + (y * job.width + x) * channels, 4, mean, channels, pixel);
      for (int c = 0; c < channels; ++c) memory[i * channels + c] = pixel[c];
    }
    __syncthreads();
    blur_tile(step, blur[0], memory, y0, x0, channels, step.batch + row);
    __syncthreads();  // the next tile takes the place of this one
  }
}

// --- the launch ---

template <class T>
__device__ void apply(const Step<T>& step, const PerturbDraw& draw, std::int64_t b, int tile,
                      unsigned char* raw) {
  const int begin = tile * kPixelsPerBlock;
  const int end = begin + kPixelsPerBlock < step.job.pixels() ? begin + kPixelsPerBlock : step.job.pixels();
  switch (step.choice.op) {
    case PerturbOp::kMixup:
      return move_pixels<PerturbOp::kMixup>(step, draw, b, begin, end);
    case PerturbOp::kCutMix:
      return move_pixels<PerturbOp::kCutMix>(step, draw, b, begin, end);
    case PerturbOp::kSplice:
      return move_pixels<PerturbOp::kSplice>(step, draw, b, begin, end);
    case PerturbOp::kNoise:
      return add_noise(step, draw, b, begin, end);
    case PerturbOp::kElastic:
      return move_elastically(step, b, tile, raw);
    case PerturbOp::kAffine:
      return move_pixels<PerturbOp::kAffine>(step, draw, b, begin, end);
    case PerturbOp::kCrop:
      return move_pixels<PerturbOp::kCrop>(step, draw, b, begin, end);
    case PerturbOp::kRotate:
      return move_pixels<PerturbOp::kRotate>(step, draw, b, begin, end);
    case PerturbOp::kFlipX:
      return move_pixels<PerturbOp::kFlipX>(step, draw, b, begin, end);
    case PerturbOp::kFlipY:
      return move_pixels<PerturbOp::kFlipY>(step, draw, b, begin, end);
    case PerturbOp::kJitter:
      if (tile == 0) jitter_row(step, draw, b, raw);
      return;
    case PerturbOp::kNone:
      return;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 3) perturb_kernel(const __grid_constant__ Job<T> job) {
  SIMT_SHARED(PerturbDraw, shared_draw, [1]);
  SIMT_SHARED_DYN(raw);
  const Step<T> step(job);
  const int b = static_cast<int>(blockIdx.x) / job.tiles;
  const int tile = static_cast<int>(blockIdx.x) % job.tiles;
  const bool valid = b < step.rows;
  const PerturbOp op = valid ? step.choice.op : PerturbOp::kNone;
  int partner[3] = {b, b, b};
  if (valid && (tile == 0 || mixes_labels(op))) find_partners(step, b, partner);
  if (threadIdx.x == 0) {
    PerturbDraw draw = step.draw(op, b);
    for (int k = 0; k < 3; ++k) draw.partner[k] = partner[k];
    shared_draw[0] = draw;
    if (tile == 0) write_plan(step, b, valid, draw);
  }
  __syncthreads();
  if (valid) apply(step, shared_draw[0], b, tile, raw);
}

bool in_pool(const PerturbOptions& options, PerturbOp op) {
  for (int i = 0; i < options.pool_size; ++i) {
    if (options.pool[i] == op) return true;
  }
  return false;
}

template <class T>
std::size_t shared_bytes(const PerturbArgs& args) {
  std::size_t bytes = 0;
  if (in_pool(args.options, PerturbOp::kElastic)) {
    bytes = sizeof(float) *
            static_cast<std::size_t>(field_memory_floats(elastic_radius(args.options.elastic_sigma)));
  }
  if (in_pool(args.options, PerturbOp::kJitter)) {
    bytes = std::max(
        bytes, sizeof(Accumulator<T>) * static_cast<std::size_t>(blur_memory(args.options, args.channels)));
  }
  return bytes;
}

template <class T>
void perturb(CudaStream stream, const PerturbArgs& args) {
  const int across = (args.width + kTileWidth - 1) / kTileWidth;
  Job<T> job{.labels = args.labels,
             .step = args.step,
             .valid_rows = args.valid_rows,
             .member = args.member,
             .operation = args.operation,
             .moved_member = args.moved_member,
             .mixed_labels = args.mixed_labels,
             .permutations = args.permutations,
             .label_weights = static_cast<Accumulator<T>*>(args.label_weights),
             .batch_size = static_cast<int>(args.batch_size),
             .height = args.height,
             .width = args.width,
             .channels = args.channels,
             .tiles = across * ((args.height + kTileHeight - 1) / kTileHeight),
             .tiles_across = across,
             .num_members = static_cast<int>(args.batches.size()),
             .seed = args.seed,
             .units = {args.options.domain, args.normalisation},
             .options = args.options,
             .black = {nullptr, args.height, args.width, args.channels, {}},
             .sources = {},
             .batches = {}};
  job.black.set_black(args.options.domain, args.normalisation);
  for (std::size_t m = 0; m < args.batches.size(); ++m) {
    job.sources[m] = static_cast<const T*>(args.sources[m]);
    job.batches[m] = static_cast<T*>(args.batches[m]);
  }
  simt::launch(perturb_kernel<T>,
               {.grid = static_cast<unsigned>(args.batch_size * job.tiles),
                .block = kThreads,
                .shared = shared_bytes<T>(args),
                .stream = stream},
               job);
}

}  // namespace

std::size_t perturb_workspace(CudaStream, const PerturbArgs&) {
  return 0;
}

void perturb(CudaStream stream, const PerturbArgs& args, Workspace) {
  const Rehearsed rehearsed(stream, "perturb", traffic(args));
  validate(args);
  check(args.batch_size < (std::int64_t{1} << 21), "perturb: too many rows");
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { perturb<T>(stream, args); });
}

}  // namespace cohort::kernels
