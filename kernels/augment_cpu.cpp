#include <algorithm>
#include <cstring>

#include "kernels/augment.h"
#include "kernels/base/error.h"
#include "kernels/cpu/parallel.h"

namespace cohort::kernels {
namespace {

// Samples per chunk: about 10 microseconds of work at 32x32.
constexpr std::int64_t kGrain = 4;

// The 256 values that each channel can take.
template <class T>
struct Table {
  explicit Table(const Normalisation& n, int channels) {
    for (int c = 0; c < channels; ++c) {
      for (int pixel = 0; pixel < 256; ++pixel) {
        value[c][pixel] = T(normalise<Accumulator<T>>(pixel, n.mean[c], n.std[c]));
      }
    }
  }
  T value[kMaxImageChannels][256];
};

template <class T>
void fill_black(const Table<T>& table, int channels, T* out, int pixels) {
  for (int x = 0; x < pixels; ++x) {
    for (int c = 0; c < channels; ++c) out[x * channels + c] = table.value[c][0];
  }
}

template <class T>
void erase_square(const AugmentArgs& args, const AugmentDraw& draw, T* out) {
  const int half = args.options.cutout / 2;
  const int y0 = std::max(0, draw.cutout_y - half);
  const int y1 = std::min(args.height, draw.cutout_y - half + args.options.cutout);
  const int x0 = std::max(0, draw.cutout_x - half);
  const int x1 = std::min(args.width, draw.cutout_x - half + args.options.cutout);
  for (int y = y0; y < y1; ++y) {
    T* const row = out + static_cast<std::int64_t>(y * args.width) * args.channels;
    std::fill(row + x0 * args.channels, row + std::max(x0, x1) * args.channels, T(0.0F));
  }
}

template <class T, int kChannels>
void augment_sample(const AugmentArgs& args, const Table<T>& table, const AugmentDraw& draw,
                    const std::uint8_t* image, T* out) {
  const int channels = kChannels > 0 ? kChannels : args.channels;
  const int width = args.width;
  // Output columns that fall inside of the image: the source column is u + dx with u = x or W-1-x.
  const int inside_low = std::clamp(draw.flip ? draw.dx : -draw.dx, 0, width);
  const int inside_high = std::clamp(draw.flip ? width + draw.dx : width - draw.dx, 0, width);
  const int first = (draw.flip ? width - 1 - inside_low : inside_low) + draw.dx;
  const std::ptrdiff_t step = draw.flip ? -channels : channels;
  for (int y = 0; y < args.height; ++y) {
    T* const row = out + static_cast<std::int64_t>(y) * width * channels;
    const int source_y = y + draw.dy;
    if (source_y < 0 || source_y >= args.height || inside_low >= inside_high) {
      fill_black(table, channels, row, width);
      continue;
    }
    fill_black(table, channels, row, inside_low);
    const std::uint8_t* pixel = image + (static_cast<std::int64_t>(source_y) * width + first) * channels;
    for (int x = inside_low; x < inside_high; ++x, pixel += step) {
      for (int c = 0; c < channels; ++c) row[x * channels + c] = table.value[c][pixel[c]];
    }
    fill_black(table, channels, row + inside_high * channels, width - inside_high);
  }
  if (args.options.cutout > 0) erase_square(args, draw, out);
}

template <class T>
void augment(CpuStream stream, const AugmentArgs& args) {
  const Table<T> table(args.normalisation, args.channels);
  const std::int64_t pixels = static_cast<std::int64_t>(args.height) * args.width * args.channels;
  const std::int64_t valid = args.valid_rows == nullptr ? args.batch_size : *args.valid_rows;
  const std::uint32_t epoch = args.epoch == nullptr ? 0U : static_cast<std::uint32_t>(*args.epoch);
  parallel_for(stream, args.batch_size, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) {
      if (args.labels != nullptr && args.image_labels != nullptr) {
        args.labels[b] = b < valid ? args.image_labels[args.indices[b]] : -1;
      }
      for (std::size_t m = 0; m < args.batches.size(); ++m) {
        T* const out = static_cast<T*>(args.batches[m]) + b * pixels;
        if (b >= valid) {
          std::fill(out, out + pixels, T(0.0F));
        } else if (m > 0 && !args.independent) {
          std::memcpy(out, static_cast<const T*>(args.batches[0]) + b * pixels,
                      static_cast<std::size_t>(pixels) * sizeof(T));
        } else {
          const auto sample = static_cast<std::uint32_t>(args.indices[b]);
          const AugmentDraw draw = draw_augment(args.options, args.seed, static_cast<std::uint32_t>(m), epoch,
                                                sample, args.height, args.width);
          const std::int32_t* const rows = args.image_rows == nullptr ? args.indices : args.image_rows;
          const std::uint8_t* const image = args.images + std::int64_t{rows[b]} * pixels;
          if (args.channels == 3) {
            augment_sample<T, 3>(args, table, draw, image, out);
          } else {
            augment_sample<T, 0>(args, table, draw, image, out);
          }
        }
      }
    }
  });
}

}  // namespace

void augment(CpuStream stream, const AugmentArgs& args) {
  check(args.channels >= 1 && args.channels <= kMaxImageChannels, "augment: 1 to 4 channels");
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { augment<T>(stream, args); });
}

}  // namespace cohort::kernels
