// perturb_plan: one launch. A thread ranks one row's key among the keys of the valid rows, 256 keys at a time
// in shared memory; grid (rows / 256, 3 permutations). Cost: 3 B^2 comparisons.
//
// perturb: two launches, because rows read other rows of the batch that they overwrite, and only the end of a
// launch orders blocks: the first copies the perturbed member's batch to the workspace (kJitter: with its
// colours changed, a block per row; kElastic: and makes the displacement fields, a block per 32x32 tile with
// both passes of the smoothing in shared memory), the second computes every value of the batch, a block of
// 256 threads per 512 pixels of one row, a thread per pixel (kNoise: per four values, one Philox block). In a
// step without perturbation both return at once: the host never learns which member or operation it is.
//
// Every operation gives the CPU's bits (kernels/perturb_math.h). Bytes: kernels/perturb.h.
// Shared memory: 1 KiB; fields: 4 (64 (32 + 2r) + 16 (32 + 2r) + 2r + 1) bytes where the pool has kElastic, r
// the radius of the smoothing (18 KiB at 32x32, 41 KiB at 224x224). Registers (sm_90): plan 48, first
// launch 64, second 58 (f32), 60 (bf16), 63 (f64), no spill; 160 bytes of stack, of the one thread that
// draws.
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/prim.cuh"
#include "kernels/cuda/simt.cuh"
#include "kernels/perturb.h"

namespace cohort::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kPixelsPerBlock = 512;
constexpr int kTile = 32;  // of a displacement field; one lane per column
constexpr int kMaxBatches = 16;

struct Plan {
  const std::int32_t* labels;
  const std::int32_t* step;
  const std::int32_t* valid_rows;
  std::int32_t* member;
  std::int32_t* operation;
  std::int32_t* moved_member;
  std::int32_t* mixed_labels;
  std::int32_t* permutations;
  int batch_size, height, width, num_members;
  std::uint64_t seed;
  PerturbOptions options;
};

template <class A>
__device__ void write_targets(const Plan& plan, const PerturbChoice& choice, std::uint32_t step, int b,
                              bool valid, A* weights_out) {
  PerturbDraw draw;
  const PerturbOp op = valid ? choice.op : PerturbOp::kNone;
  if (mixes_labels(op)) {
    draw = draw_perturb(op, plan.options, plan.seed, static_cast<std::uint32_t>(choice.member), step,
                        static_cast<std::uint32_t>(b), plan.height, plan.width);
  }
  float weights[4];
  label_weights(op, draw, plan.height, plan.width, weights);
  for (int k = 0; k < 4; ++k) weights_out[4 * b + k] = static_cast<A>(weights[k]);
  plan.mixed_labels[4 * b] = plan.labels[b];
}

template <class A>
__global__ void __launch_bounds__(kThreads) plan_kernel(Plan plan, A* weights) {
  SIMT_SHARED(std::uint32_t, keys, [kThreads]);
  const int thread = static_cast<int>(threadIdx.x);
  const int b = static_cast<int>(blockIdx.x) * kThreads + thread;
  const std::uint32_t which = blockIdx.y;
  const auto step = static_cast<std::uint32_t>(*plan.step);
  const int valid = plan.valid_rows == nullptr ? plan.batch_size : *plan.valid_rows;
  const std::uint32_t key = permutation_key(plan.seed, step, which, static_cast<std::uint32_t>(b));
  int rank = 0;
  for (int first = 0; first < valid; first += kThreads) {
    keys[thread] = permutation_key(plan.seed, step, which, static_cast<std::uint32_t>(first + thread));
    __syncthreads();
    const int count = valid - first < kThreads ? valid - first : kThreads;
    for (int i = 0; i < count; ++i) rank += keys[i] < key || (keys[i] == key && first + i < b) ? 1 : 0;
    __syncthreads();
  }
  if (b >= plan.batch_size) return;
  const int partner = b < valid ? rank : b;
  plan.permutations[static_cast<std::int64_t>(which) * plan.batch_size + b] = partner;
  plan.mixed_labels[4 * b + 1 + static_cast<int>(which)] = plan.labels[partner];
  if (which != 0) return;
  const PerturbChoice choice = choose_perturbation(plan.options, plan.seed, step, plan.num_members);
  write_targets(plan, choice, step, b, b < valid, weights);
  if (b == 0) {
    *plan.member = choice.member;
    *plan.operation = static_cast<std::int32_t>(choice.op);
    if (plan.moved_member != nullptr) *plan.moved_member = is_geometric(choice.op) ? choice.member : -1;
  }
}

template <class T>
struct Job {
  using A = Accumulator<T>;
  const std::int32_t* member;
  const std::int32_t* operation;
  const std::int32_t* step;
  const std::int32_t* valid_rows;
  A* copy;        // (B,H,W,C)
  float* fields;  // (num_fields,H,W,2)
  int num_fields;
  int chunks;  // of kPixelsPerBlock per row
  std::uint64_t seed;
  PerturbSource<A> source;
  PerturbUnits<A> units;
  PerturbOptions options;
  T* batches[kMaxBatches];

  __device__ PerturbOp op() const {
    return *member < 0 ? PerturbOp::kNone : static_cast<PerturbOp>(*operation);
  }
  __device__ std::int64_t rows() const { return valid_rows == nullptr ? source.batch_size : *valid_rows; }
  __device__ int pixels() const { return source.height * source.width; }
  __device__ PerturbDraw draw(PerturbOp which, std::int64_t b) const {
    return draw_perturb(which, options, seed, static_cast<std::uint32_t>(*member),
                        static_cast<std::uint32_t>(*step), static_cast<std::uint32_t>(b), source.height,
                        source.width);
  }
};

// --- first launch: the source of the operation ---

template <class T>
__device__ void copy_batch(const Job<T>& job) {
  const T* const batch = job.batches[*job.member];
  const std::int64_t count = job.rows() * job.pixels() * job.source.channels;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += stride) {
    job.copy[i] = static_cast<Accumulator<T>>(batch[i]);
  }
}

// Brightness, saturation and hue on one pixel: the steps first <= i < last of the drawn order.
template <class A>
__device__ void change_colours(const PerturbDraw& draw, int first, int last, A mean, int channels, A* pixel) {
  for (int i = first; i < last; ++i) {
    const int which = draw.order[i];
    jitter_pixel(which, static_cast<A>(draw.factor[which]), mean, channels, pixel);
  }
}

// A thread changes its pixels alone, so that only the mean grey, which contrast needs, goes through the
// block.
template <class T, int kChannels>
__device__ void jitter_row(const Job<T>& job, const PerturbDraw& draw, std::int64_t b) {
  using A = Accumulator<T>;
  const int channels = kChannels > 0 ? kChannels : job.source.channels;
  const std::int64_t row = b * job.pixels() * channels;
  const T* const in = job.batches[*job.member] + row;
  A* const out = job.copy + row;
  int contrast = 0;
  while (contrast < 3 && draw.order[contrast] != 1) ++contrast;
  long long units = 0;
  A pixel[kMaxImageChannels] = {};
  for (int p = static_cast<int>(threadIdx.x); p < job.pixels(); p += kThreads) {
    for (int c = 0; c < channels; ++c) pixel[c] = job.units.into(static_cast<A>(in[p * channels + c]), c);
    change_colours(draw, 0, contrast, A(0), channels, pixel);
    units += grey_units(grey(pixel, channels));
    for (int c = 0; c < channels; ++c) out[p * channels + c] = pixel[c];
  }
  const A mean = static_cast<A>(mean_of_units(block_sum(units), job.pixels()));
  for (int p = static_cast<int>(threadIdx.x); p < job.pixels(); p += kThreads) {
    for (int c = 0; c < channels; ++c) pixel[c] = out[p * channels + c];
    change_colours(draw, contrast, 4, mean, channels, pixel);
    for (int c = 0; c < channels; ++c) out[p * channels + c] = pixel[c];
  }
}

// A block per row.
template <class T>
__device__ void jitter_batch(const Job<T>& job) {
  SIMT_SHARED(PerturbDraw, shared_draw, [1]);
  const std::int64_t b = blockIdx.x;
  if (b >= job.rows()) return;
  if (threadIdx.x == 0) {
    const PerturbDraw draw = job.draw(PerturbOp::kJitter, b);
    shared_draw[0] = draw;
  }
  __syncthreads();
  if (job.source.channels == 3) {
    jitter_row<T, 3>(job, shared_draw[0], b);
  } else {
    jitter_row<T, 0>(job, shared_draw[0], b);
  }
}

// The parts of the dynamic shared memory, for a smoothing of radius r.
struct FieldMemory {
  float* weights;   // (2r + 1)
  float* noise;     // (kWarps, kTile + 2r, 2): a row of noise per warp
  float* smoothed;  // (kTile + 2r, kTile, 2): along x
};

__host__ __device__ constexpr int field_memory_floats(int radius) {
  return 2 * radius + 1 + (kTile + 2 * radius) * 2 * (kWarps + kTile);
}

__device__ FieldMemory field_memory(unsigned char* raw, int radius) {
  auto* const floats = reinterpret_cast<float*>(raw);
  float* const noise = floats + 2 * radius + 1;
  return {floats, noise, noise + kWarps * (kTile + 2 * radius) * 2};
}

// Rows of noise smoothed along x, one warp per row: the tile's and r above and below.
__device__ void smooth_along_x(const FieldMemory& memory, const RngAddress& address, int radius, int y0,
                               int x0, int height, int width) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int extent = kTile + 2 * radius;
  float* const noise = memory.noise + warp * extent * 2;
  for (int j = warp; j < extent; j += kWarps) {
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
    memory.smoothed[(j * kTile + lane) * 2] = sum[0];
    memory.smoothed[(j * kTile + lane) * 2 + 1] = sum[1];
    __syncwarp();
  }
}

// A block per tile of a field.
template <class T>
__device__ void make_fields(const Job<T>& job, unsigned char* raw) {
  const int height = job.source.height, width = job.source.width;
  const int radius = elastic_radius(job.options.elastic_sigma);
  const FieldMemory memory = field_memory(raw, radius);
  SIMT_SHARED(float, scale, [1]);
  const int across = (width + kTile - 1) / kTile;
  const int tiles = (height + kTile - 1) / kTile * across;
  const std::int64_t field = blockIdx.x / static_cast<unsigned>(tiles);
  if (field >= job.num_fields) return;
  if (threadIdx.x == 0) {
    const float squares = gaussian_weights(job.options.elastic_sigma, radius, memory.weights);
    scale[0] = elastic_scale(job.options.elastic_alpha, squares);
  }
  __syncthreads();
  const int tile = static_cast<int>(blockIdx.x % static_cast<unsigned>(tiles));
  const int y0 = tile / across * kTile;
  const int x0 = tile % across * kTile;
  smooth_along_x(memory,
                 elastic_address(job.seed, static_cast<std::uint32_t>(*job.member),
                                 static_cast<std::uint32_t>(*job.step), static_cast<std::uint32_t>(field)),
                 radius, y0, x0, height, width);
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kTile * 2; i += kThreads) {
    const int y = i / (kTile * 2);
    const int column = i % (kTile * 2);
    float sum = 0.0F;
    for (int k = 0; k <= 2 * radius; ++k) {
      sum = std::fma(memory.weights[k], memory.smoothed[(y + k) * kTile * 2 + column], sum);
    }
    if (y0 + y < height && x0 + column / 2 < width) {
      job.fields[((field * height + y0 + y) * width + x0) * 2 + column] = sum * scale[0];
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 4) prepare_kernel(Job<T> job) {
  SIMT_SHARED_DYN(raw);
  const PerturbOp op = job.op();
  if (op == PerturbOp::kNone) return;
  if (op == PerturbOp::kJitter) {
    jitter_batch(job);
  } else {
    copy_batch(job);
    if (op == PerturbOp::kElastic) make_fields(job, raw);
  }
}

// --- second launch: the values ---

template <PerturbOp kOp, class T>
__device__ void move_pixels(const Job<T>& job, const PerturbDraw& draw, std::int64_t b, int begin, int end) {
  const PerturbSource<Accumulator<T>>& s = job.source;
  const float* const field = job.fields + (job.options.per_sample ? b : 0) * job.pixels() * 2;
  T* const out = job.batches[*job.member] + b * job.pixels() * s.channels;
  for (int p = begin + static_cast<int>(threadIdx.x); p < end; p += kThreads) {
    const int y = p / s.width;
    const int x = p - y * s.width;
    for (int c = 0; c < s.channels; ++c) {
      out[p * s.channels + c] = T(moved_value<kOp>(s, draw, field, b, y, x, c));
    }
  }
}

template <class T>
__device__ void add_noise(const Job<T>& job, const PerturbDraw& draw, std::int64_t b, int begin, int end) {
  using A = Accumulator<T>;
  const int channels = job.source.channels;
  const std::int64_t row = b * job.pixels() * channels;
  const A* const in = job.source.images + row;
  T* const out = job.batches[*job.member] + row;
  const A sigma = static_cast<A>(draw.sigma);
  const RngAddress address =
      noise_address(job.seed, static_cast<std::uint32_t>(*job.member), static_cast<std::uint32_t>(*job.step),
                    static_cast<std::uint32_t>(b));
  for (int i = begin * channels + static_cast<int>(threadIdx.x) * 4; i < end * channels; i += kThreads * 4) {
    float normals[4];
    four_normals(address, static_cast<std::uint32_t>(i / 4), normals);
    int c = i % channels;
    for (int k = 0; k < 4 && i + k < end * channels; ++k) {
      const A value = clamp01(std::fma(sigma, static_cast<A>(normals[k]), job.units.into(in[i + k], c)));
      out[i + k] = T(job.units.back(value, c));
      c = c + 1 == channels ? 0 : c + 1;
    }
  }
}

struct BlurWeights {
  float x[kMaxBlur], y[kMaxBlur];
};

__host__ __device__ constexpr int blur_radius(int width) {
  return (width < kMaxBlur ? width : kMaxBlur) / 2;
}

template <class T>
__device__ void blur_pixels(const Job<T>& job, const BlurWeights& g, std::int64_t b, int begin, int end) {
  using A = Accumulator<T>;
  const PerturbSource<A>& s = job.source;
  const int rx = blur_radius(job.options.blur_width);
  const int ry = blur_radius(job.options.blur_height);
  T* const out = job.batches[*job.member] + b * job.pixels() * s.channels;
  for (int p = begin + static_cast<int>(threadIdx.x); p < end; p += kThreads) {
    const int y = p / s.width;
    const int x = p - y * s.width;
    A sum[kMaxImageChannels] = {};
    for (int j = -ry; j <= ry; ++j) {
      A row[kMaxImageChannels] = {};
      for (int i = -rx; i <= rx; ++i) {
        const int ys = reflect(y + j, s.height), xs = reflect(x + i, s.width);
#pragma unroll
        for (int c = 0; c < kMaxImageChannels; ++c) {
          if (c < s.channels) row[c] = std::fma(static_cast<A>(g.x[i + rx]), s.at(b, ys, xs, c), row[c]);
        }
      }
#pragma unroll
      for (int c = 0; c < kMaxImageChannels; ++c)
        sum[c] = std::fma(static_cast<A>(g.y[j + ry]), row[c], sum[c]);
    }
#pragma unroll
    for (int c = 0; c < kMaxImageChannels; ++c) {
      if (c < s.channels) out[p * s.channels + c] = T(job.units.back(sum[c], c));
    }
  }
}

template <class T>
__device__ void apply(const Job<T>& job, PerturbOp op, const PerturbDraw& draw, const BlurWeights& blur,
                      std::int64_t b, int begin, int end) {
  switch (op) {
    case PerturbOp::kMixup:
      return move_pixels<PerturbOp::kMixup>(job, draw, b, begin, end);
    case PerturbOp::kCutMix:
      return move_pixels<PerturbOp::kCutMix>(job, draw, b, begin, end);
    case PerturbOp::kSplice:
      return move_pixels<PerturbOp::kSplice>(job, draw, b, begin, end);
    case PerturbOp::kNoise:
      return add_noise(job, draw, b, begin, end);
    case PerturbOp::kElastic:
      return move_pixels<PerturbOp::kElastic>(job, draw, b, begin, end);
    case PerturbOp::kAffine:
      return move_pixels<PerturbOp::kAffine>(job, draw, b, begin, end);
    case PerturbOp::kCrop:
      return move_pixels<PerturbOp::kCrop>(job, draw, b, begin, end);
    case PerturbOp::kRotate:
      return move_pixels<PerturbOp::kRotate>(job, draw, b, begin, end);
    case PerturbOp::kFlipX:
      return move_pixels<PerturbOp::kFlipX>(job, draw, b, begin, end);
    case PerturbOp::kFlipY:
      return move_pixels<PerturbOp::kFlipY>(job, draw, b, begin, end);
    case PerturbOp::kJitter:
      return blur_pixels(job, blur, b, begin, end);
    case PerturbOp::kNone:
      return;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 4) apply_kernel(Job<T> job) {
  SIMT_SHARED(PerturbDraw, shared_draw, [1]);
  SIMT_SHARED(BlurWeights, blur, [1]);
  const PerturbOp op = job.op();
  const std::int64_t b = blockIdx.x / static_cast<unsigned>(job.chunks);
  if (op == PerturbOp::kNone || b >= job.rows()) return;
  if (threadIdx.x == 0) {
    const PerturbDraw draw = job.draw(op, b);
    shared_draw[0] = draw;
    if (op == PerturbOp::kJitter) {
      gaussian_weights(draw.sigma, blur_radius(job.options.blur_width), blur[0].x);
      gaussian_weights(draw.sigma, blur_radius(job.options.blur_height), blur[0].y);
    }
  }
  __syncthreads();
  const int begin = static_cast<int>(blockIdx.x % static_cast<unsigned>(job.chunks)) * kPixelsPerBlock;
  const int end = begin + kPixelsPerBlock < job.pixels() ? begin + kPixelsPerBlock : job.pixels();
  apply(job, op, shared_draw[0], blur[0], b, begin, end);
}

bool in_pool(const PerturbOptions& options, PerturbOp op) {
  for (int i = 0; i < options.pool_size; ++i) {
    if (options.pool[i] == op) return true;
  }
  return false;
}

template <class T>
Job<T> make_job(const PerturbArgs& args, Workspace workspace) {
  using A = Accumulator<T>;
  const int pixels = args.height * args.width;
  auto* const copy = reinterpret_cast<A*>(workspace.data());
  const std::size_t copy_bytes = static_cast<std::size_t>(args.batch_size) *
                                 static_cast<std::size_t>(pixels * args.channels) * sizeof(A);
  const int fields = args.options.per_sample ? static_cast<int>(args.batch_size) : 1;
  Job<T> job{args.member,
             args.operation,
             args.step,
             args.valid_rows,
             copy,
             reinterpret_cast<float*>(workspace.data() + (copy_bytes + 63) / 64 * 64),
             in_pool(args.options, PerturbOp::kElastic) ? fields : 0,
             (pixels + kPixelsPerBlock - 1) / kPixelsPerBlock,
             args.seed,
             {copy, args.permutations, args.batch_size, args.height, args.width, args.channels, {}},
             {args.options.domain, args.normalisation},
             args.options,
             {}};
  job.source.set_black(args.options.domain, args.normalisation);
  for (std::size_t m = 0; m < args.batches.size(); ++m) job.batches[m] = static_cast<T*>(args.batches[m]);
  return job;
}

template <class T>
void perturb(CudaStream stream, const PerturbArgs& args, Workspace workspace) {
  const Job<T> job = make_job<T>(args, workspace);
  const std::int64_t pixels = std::int64_t{args.height} * args.width;
  const std::int64_t copies = (args.batch_size * pixels * args.channels + kThreads * 4 - 1) / (kThreads * 4);
  const std::int64_t tiles =
      job.num_fields * ((args.height + kTile - 1) / kTile) * ((args.width + kTile - 1) / kTile);
  std::int64_t blocks = args.batch_size > copies ? args.batch_size : copies;
  blocks = blocks > tiles ? blocks : tiles;
  const std::size_t shared =
      job.num_fields == 0
          ? 0
          : sizeof(float) *
                static_cast<std::size_t>(field_memory_floats(elastic_radius(args.options.elastic_sigma)));
  simt::launch(prepare_kernel<T>,
               {.grid = static_cast<unsigned>(blocks), .block = kThreads, .shared = shared, .stream = stream},
               job);
  simt::launch(
      apply_kernel<T>,
      {.grid = static_cast<unsigned>(args.batch_size * job.chunks), .block = kThreads, .stream = stream},
      job);
}

}  // namespace

void perturb_plan(CudaStream stream, const PerturbArgs& args, Workspace workspace) {
  const Rehearsed rehearsed(stream, "perturb_plan", {});
  check(workspace.size() >= perturb_workspace(args), "perturb_plan: workspace too small");
  const Plan plan{args.labels,       args.step,         args.valid_rows,
                  args.member,       args.operation,    args.moved_member,
                  args.mixed_labels, args.permutations, static_cast<int>(args.batch_size),
                  args.height,       args.width,        static_cast<int>(args.batches.size()),
                  args.seed,         args.options};
  const dim3 grid(static_cast<unsigned>((args.batch_size + kThreads - 1) / kThreads), 3);
  const simt::LaunchConfig config{.grid = grid, .block = kThreads, .stream = stream};
  if (args.dtype == DType::f64) {
    simt::launch(plan_kernel<double>, config, plan, static_cast<double*>(args.label_weights));
  } else {
    simt::launch(plan_kernel<float>, config, plan, static_cast<float*>(args.label_weights));
  }
}

void perturb(CudaStream stream, const PerturbArgs& args, Workspace workspace) {
  const Rehearsed rehearsed(stream, "perturb", traffic(args));
  check(workspace.size() >= perturb_workspace(args), "perturb: workspace too small");
  check(args.channels >= 1 && args.channels <= kMaxImageChannels, "perturb: 1 to 4 channels");
  check(args.batches.size() <= kMaxBatches, "perturb: at most 16 members");
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { perturb<T>(stream, args, workspace); });
}

}  // namespace cohort::kernels
