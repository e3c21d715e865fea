// Mapping: one block of 256 threads per 8192 values of one row of one view (a 32x32x3 image is one block); a
// view is the batch that all members share, or one member's. A thread makes 16 bytes of consecutive output at
// a time (one value where rows are not multiples of 16 bytes), so stores are whole sectors; bytes of the
// source come through L1. The 256 values of each channel are a table in shared memory, made with the
// divisions of augment_math.h: the bits of the CPU.
//
// Shared memory: 4 KiB (f32), 2 (bf16), 8 (f64). Bytes: kernels/augment.h. Registers (sm_90): 34, no spill.
#include <bit>

#include "kernels/augment.h"
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/simt.cuh"
#include "kernels/cuda/vec.cuh"

namespace cohort::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 8192;
constexpr int kMembersPerLaunch = 16;

struct Job {
  const std::uint8_t* images;
  const std::int32_t* image_labels;
  const std::int32_t* indices;
  const std::int32_t* image_rows;  // `indices` where the images are the whole set
  const std::int32_t* valid_rows;
  const std::int32_t* epoch;
  std::int32_t* labels;
  int batch_size, height, width, channels;
  int chunks;        // per row
  int first_member;  // of `batches`
  int copies;        // batches that get the same values: all of them, or 1 when draws are independent
  std::uint64_t seed;
  AugmentOptions options;
  Normalisation normalisation;
  void* batches[kMembersPerLaunch];
};

template <class T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T v[kWidth];
};

// The source of an output pixel, as an offset into the image; -1: black, -2: erased.
__device__ int source_of(const Job& job, const AugmentDraw& draw, int y, int x) {
  const int half = job.options.cutout / 2;
  const int top = draw.cutout_y - half;
  const int left = draw.cutout_x - half;
  if (y >= top && y < top + job.options.cutout && x >= left && x < left + job.options.cutout) return -2;
  const int sy = y + draw.dy;
  const int sx = (draw.flip ? job.width - 1 - x : x) + draw.dx;
  if (sy < 0 || sy >= job.height || sx < 0 || sx >= job.width) return -1;
  return (sy * job.width + sx) * job.channels;
}

template <class T, int kWidth>
__device__ void store(const Job& job, std::int64_t at, const Pack<T, kWidth>& pack) {
  for (int m = 0; m < job.copies; ++m) {
    T* const out = static_cast<T*>(job.batches[static_cast<int>(blockIdx.y) + m]) + at;
    if constexpr (kWidth > 1) {
      *reinterpret_cast<uint4*>(out) = std::bit_cast<uint4>(pack);
    } else {
      *out = pack.v[0];
    }
  }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) augment_kernel(Job job) {
  SIMT_SHARED(T, table, [kMaxImageChannels][256]);
  const int thread = static_cast<int>(threadIdx.x);
  const int b = static_cast<int>(blockIdx.x) / job.chunks;
  const int count = job.height * job.width * job.channels;
  const int begin = static_cast<int>(blockIdx.x) % job.chunks * kChunk;
  const int end = begin + kChunk < count ? begin + kChunk : count;
  const std::int64_t row = static_cast<std::int64_t>(b) * count;
  const bool valid = job.valid_rows == nullptr || b < *job.valid_rows;
  if (thread == 0 && begin == 0 && blockIdx.y == 0 && job.labels != nullptr && job.image_labels != nullptr) {
    job.labels[b] = valid ? job.image_labels[job.indices[b]] : -1;
  }
  if (!valid) {
    for (int i = begin + thread * kWidth; i < end; i += kThreads * kWidth)
      store(job, row + i, Pack<T, kWidth>{});
    return;
  }
  for (int c = 0; c < job.channels; ++c) {
    table[c][thread] =
        T(normalise<Accumulator<T>>(thread, job.normalisation.mean[c], job.normalisation.std[c]));
  }
  const std::int32_t index = job.indices[b];
  const std::uint32_t epoch = job.epoch == nullptr ? 0U : static_cast<std::uint32_t>(*job.epoch);
  const AugmentDraw draw =
      draw_augment(job.options, job.seed, static_cast<std::uint32_t>(job.first_member) + blockIdx.y, epoch,
                   static_cast<std::uint32_t>(index), job.height, job.width);
  const std::uint8_t* const image = job.images + static_cast<std::int64_t>(job.image_rows[b]) * count;
  __syncthreads();
  for (int i = begin + thread * kWidth; i < end; i += kThreads * kWidth) {
    const int pixel = i / job.channels;
    int c = i - pixel * job.channels;
    int y = pixel / job.width;
    int x = pixel - y * job.width;
    int source = source_of(job, draw, y, x);
    Pack<T, kWidth> pack;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      if (c == job.channels) {
        c = 0;
        if (++x == job.width) {
          x = 0;
          ++y;
        }
        source = source_of(job, draw, y, x);
      }
      pack.v[k] = source == -2 ? T(0.0F) : table[c][source < 0 ? 0 : image[source + c]];
      ++c;
    }
    store(job, row + i, pack);
  }
}

template <class T>
void augment(CudaStream stream, const AugmentArgs& args, const Job& job, int num_batches) {
  constexpr int kWidth = 16 / static_cast<int>(sizeof(T));
  bool vector = args.height * args.width * args.channels % kWidth == 0;
  for (int m = 0; m < num_batches; ++m) vector = vector && aligned16(job.batches[m]);
  const unsigned views = static_cast<unsigned>(num_batches / job.copies);
  const unsigned blocks = static_cast<unsigned>(job.batch_size * job.chunks);
  simt::launch(vector ? augment_kernel<T, kWidth> : augment_kernel<T, 1>,
               {.grid = {blocks, views}, .block = kThreads, .stream = stream}, job);
}

}  // namespace

void augment(CudaStream stream, const AugmentArgs& args) {
  const Rehearsed rehearsed(stream, "augment", traffic(args));
  check(args.channels >= 1 && args.channels <= kMaxImageChannels, "augment: 1 to 4 channels");
  const int count = args.height * args.width * args.channels;
  Job job{.images = args.images,
          .image_labels = args.image_labels,
          .indices = args.indices,
          .image_rows = args.image_rows == nullptr ? args.indices : args.image_rows,
          .valid_rows = args.valid_rows,
          .epoch = args.epoch,
          .labels = args.labels,
          .batch_size = static_cast<int>(args.batch_size),
          .height = args.height,
          .width = args.width,
          .channels = args.channels,
          .chunks = (count + kChunk - 1) / kChunk,
          .first_member = 0,
          .copies = 1,
          .seed = args.seed,
          .options = args.options,
          .normalisation = args.normalisation,
          .batches = {}};
  const int members = static_cast<int>(args.batches.size());
  for (int first = 0; first < members; first += kMembersPerLaunch) {
    const int num_batches = members - first < kMembersPerLaunch ? members - first : kMembersPerLaunch;
    job.first_member = args.independent ? first : 0;
    job.copies = args.independent ? 1 : num_batches;
    for (int m = 0; m < num_batches; ++m) job.batches[m] = args.batches[static_cast<std::size_t>(first + m)];
    dispatch_float(args.dtype,
                   [&]<class T>(std::type_identity<T>) { augment<T>(stream, args, job, num_batches); });
  }
}

}  // namespace cohort::kernels
