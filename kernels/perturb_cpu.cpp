#include "kernels/perturb.h"

#include <algorithm>
#include <type_traits>

#include "kernels/base/valid_rows.h"
#include "kernels/cpu/parallel.h"

namespace cohort::kernels {
namespace {

bool in_pool(const PerturbOptions& options, PerturbOp op) {
  return std::find(options.pool, options.pool + options.pool_size, op) != options.pool + options.pool_size;
}

std::size_t round_up(std::size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

// Values of one image.
std::size_t image_size(const PerturbArgs& args) {
  return static_cast<std::size_t>(args.height * args.width * args.channels);
}

// Displacements of one image.
std::size_t field_floats(const PerturbArgs& args) {
  return static_cast<std::size_t>(args.height) * static_cast<std::size_t>(args.width) * 2;
}

std::size_t num_fields(const PerturbArgs& args) {
  if (!in_pool(args.options, PerturbOp::kElastic)) return 0;
  return args.options.per_sample ? static_cast<std::size_t>(args.batch_size) : 1;
}

// The workspace: keys of a permutation, then fields and their scratch, then an image for each thread.
std::size_t keys_bytes(const PerturbArgs& args) {
  return round_up(static_cast<std::size_t>(args.batch_size) * sizeof(std::uint64_t));
}
std::size_t fields_bytes(const PerturbArgs& args) {
  return round_up(2 * num_fields(args) * field_floats(args) * sizeof(float));
}
std::size_t image_bytes(const PerturbArgs& args) {
  return round_up(image_size(args) * size_of(accumulator_of(args.dtype)));
}

// Permutation k of the first `valid` rows: row b maps to the rank of its key.
void permute(const PerturbArgs& args, std::uint32_t k, std::int64_t valid, std::uint64_t* keys) {
  const auto step = static_cast<std::uint32_t>(*args.step);
  std::int32_t* const permutation = args.permutations + static_cast<std::int64_t>(k) * args.batch_size;
  for (std::int64_t b = 0; b < args.batch_size; ++b) permutation[b] = static_cast<std::int32_t>(b);
  for (std::int64_t b = 0; b < valid; ++b) {
    const auto row = static_cast<std::uint32_t>(b);
    keys[b] = (std::uint64_t{permutation_key(args.seed, step, k, row)} << 32) | row;
  }
  std::sort(keys, keys + valid);
  for (std::int64_t rank = 0; rank < valid; ++rank) {
    permutation[keys[rank] & 0xffffffffU] = static_cast<std::int32_t>(rank);
  }
}

// What the pixels need to know about this step.
template <class T>
struct Job {
  using A = Accumulator<T>;
  const PerturbArgs& args;
  PerturbOp op;
  std::uint32_t member, step;
  PerturbSource<T> source;
  PerturbUnits<A> units;
  const float* fields;  // (num_fields,H,W,2)

  PerturbDraw draw(std::int64_t b) const {
    PerturbDraw draw = draw_perturb(op, args.options, args.seed, member, step, static_cast<std::uint32_t>(b),
                                    args.height, args.width);
    for (std::int64_t k = 0; k < 3; ++k) draw.partner[k] = args.permutations[k * args.batch_size + b];
    return draw;
  }
};

// Fills (rows,H,W,2) with uniform noise, smooths it along x, then along y, and scales it.
void make_elastic_fields(CpuStream stream, const PerturbArgs& args, std::uint32_t member, std::uint32_t step,
                         float* fields, float* scratch) {
  const int height = args.height, width = args.width;
  const int radius = elastic_radius(args.options.elastic_sigma);
  float g[2 * kMaxElasticRadius + 1];
  const float squares = gaussian_weights(args.options.elastic_sigma, radius, g);
  const float scale = elastic_scale(args.options.elastic_alpha, squares);
  const std::int64_t rows = static_cast<std::int64_t>(num_fields(args)) * height;
  const std::int64_t row_floats = std::int64_t{width} * 2;
  parallel_for(stream, rows, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const RngAddress address =
          elastic_address(args.seed, member, step, static_cast<std::uint32_t>(i / height));
      const std::int64_t first = i % height * row_floats;
      for (std::int64_t j = 0; j < row_floats; ++j) {
        Rng rng(address,
                static_cast<std::uint32_t>(first + j));  // one block per value: any thread can make it
        fields[i * row_floats + j] = draw_between(rng, -1.0F, 1.0F);
      }
    }
  });
  parallel_for(stream, rows, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float* const in = fields + i * row_floats;
      for (int x = 0; x < width; ++x) {
        float sum[2] = {0.0F, 0.0F};
        for (int k = -radius; k <= radius; ++k) {
          const int other = reflect(x + k, width);
          sum[0] = std::fma(g[k + radius], in[2 * other], sum[0]);
          sum[1] = std::fma(g[k + radius], in[2 * other + 1], sum[1]);
        }
        scratch[i * row_floats + 2 * x] = sum[0];
        scratch[i * row_floats + 2 * x + 1] = sum[1];
      }
    }
  });
  parallel_for(stream, rows, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t y = i % height;
      float* const out = fields + i * row_floats;
      std::fill(out, out + row_floats, 0.0F);
      for (int k = -radius; k <= radius; ++k) {
        const std::int64_t other = i - y + reflect(static_cast<int>(y) + k, height);
        for (std::int64_t j = 0; j < row_floats; ++j) {
          out[j] = std::fma(g[k + radius], scratch[other * row_floats + j], out[j]);
        }
      }
      for (std::int64_t j = 0; j < row_floats; ++j) out[j] *= scale;
    }
  });
}

template <PerturbOp kOp, class T>
void move_row(const Job<T>& job, std::int64_t b, T* out) {
  const PerturbDraw draw = job.draw(b);
  const std::int64_t field = job.args.options.per_sample ? b : 0;
  const float* displacement = job.fields + field * static_cast<std::int64_t>(field_floats(job.args));
  const PerturbSource<T>& s = job.source;
  for (int y = 0; y < s.height; ++y) {
    for (int x = 0; x < s.width; ++x) {
      for (int c = 0; c < s.channels; ++c) *out++ = T(moved_value<kOp>(s, draw, displacement, b, y, x, c));
      if constexpr (kOp == PerturbOp::kElastic) displacement += 2;
    }
  }
}

template <class T>
void noise_row(const Job<T>& job, std::int64_t b, T* out) {
  using A = Accumulator<T>;
  const A sigma = static_cast<A>(job.draw(b).sigma);
  const RngAddress address =
      noise_address(job.args.seed, job.member, job.step, static_cast<std::uint32_t>(b));
  const PerturbSource<T>& s = job.source;
  const std::int64_t count = std::int64_t{s.height} * s.width * s.channels;
  const T* const in = s.images + b * count;
  float normals[4] = {};
  int c = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (i % 4 == 0) four_normals(address, static_cast<std::uint32_t>(i / 4), normals);
    const A value =
        clamp01(std::fma(sigma, static_cast<A>(normals[i % 4]), job.units.into(static_cast<A>(in[i]), c)));
    out[i] = T(job.units.back(value, c));
    c = c + 1 == s.channels ? 0 : c + 1;
  }
}

// The image of row b with its colours changed by the four operations in drawn order, in the domain's units.
template <class T, class A>
void jitter_row(const Job<T>& job, const PerturbDraw& draw, std::int64_t b, A* image) {
  const T* const in = job.source.images + b * static_cast<std::int64_t>(image_size(job.args));
  const int channels = job.args.channels;
  const std::int64_t pixels = std::int64_t{job.args.height} * job.args.width;
  for (std::int64_t p = 0; p < pixels; ++p) {
    for (int c = 0; c < channels; ++c)
      image[p * channels + c] = job.units.into(static_cast<A>(in[p * channels + c]), c);
  }
  for (const int which : draw.order) {
    double mean = 0.0;
    if (which == 1) {
      std::int64_t sum = 0;
      for (std::int64_t p = 0; p < pixels; ++p) sum += grey_units(grey(image + p * channels, channels));
      mean = mean_of_units(sum, pixels);
    }
    for (std::int64_t p = 0; p < pixels; ++p) {
      jitter_pixel(which, static_cast<A>(draw.factor[which]), static_cast<A>(mean), channels,
                   image + p * channels);
    }
  }
}

// Colours, then blur; `image` is memory for one.
template <class T, class A>
void jitter_and_blur_row(const Job<T>& job, std::int64_t b, A* image, T* out) {
  const PerturbOptions& options = job.args.options;
  const PerturbDraw draw = job.draw(b);
  jitter_row(job, draw, b, image);
  const float sigma = draw.sigma;
  const int rx = std::min(options.blur_width, kMaxBlur) / 2;
  const int ry = std::min(options.blur_height, kMaxBlur) / 2;
  float gx[kMaxBlur], gy[kMaxBlur];
  gaussian_weights(sigma, rx, gx);
  gaussian_weights(sigma, ry, gy);
  const PerturbSource<T>& s = job.source;
  for (int y = 0; y < s.height; ++y) {
    for (int x = 0; x < s.width; ++x) {
      for (int c = 0; c < s.channels; ++c) {
        A sum = A(0);
        for (int j = -ry; j <= ry; ++j) {
          A row = A(0);
          for (int i = -rx; i <= rx; ++i) {
            const int at = reflect(y + j, s.height) * s.width + reflect(x + i, s.width);
            row = std::fma(static_cast<A>(gx[i + rx]), image[at * s.channels + c], row);
          }
          sum = std::fma(static_cast<A>(gy[j + ry]), row, sum);
        }
        *out++ = T(job.units.back(sum, c));
      }
    }
  }
}

template <class T, class A>
void perturb_row(const Job<T>& job, std::int64_t b, A* image, T* out) {
  switch (job.op) {
    case PerturbOp::kMixup:
      return move_row<PerturbOp::kMixup>(job, b, out);
    case PerturbOp::kCutMix:
      return move_row<PerturbOp::kCutMix>(job, b, out);
    case PerturbOp::kSplice:
      return move_row<PerturbOp::kSplice>(job, b, out);
    case PerturbOp::kNoise:
      return noise_row(job, b, out);
    case PerturbOp::kElastic:
      return move_row<PerturbOp::kElastic>(job, b, out);
    case PerturbOp::kAffine:
      return move_row<PerturbOp::kAffine>(job, b, out);
    case PerturbOp::kCrop:
      return move_row<PerturbOp::kCrop>(job, b, out);
    case PerturbOp::kRotate:
      return move_row<PerturbOp::kRotate>(job, b, out);
    case PerturbOp::kFlipX:
      return move_row<PerturbOp::kFlipX>(job, b, out);
    case PerturbOp::kFlipY:
      return move_row<PerturbOp::kFlipY>(job, b, out);
    case PerturbOp::kJitter:
      return jitter_and_blur_row(job, b, image, out);
    case PerturbOp::kNone:
      return;
  }
}

// Who is perturbed and how, the permutations and the targets.
template <class A>
PerturbChoice plan(const PerturbArgs& args, std::int64_t valid, std::uint64_t* keys) {
  const auto step = static_cast<std::uint32_t>(*args.step);
  const PerturbChoice choice =
      choose_perturbation(args.options, args.seed, step, static_cast<int>(args.batches.size()));
  *args.member = choice.member;
  *args.operation = static_cast<std::int32_t>(choice.op);
  if (args.moved_member != nullptr) *args.moved_member = is_geometric(choice.op) ? choice.member : -1;
  for (std::uint32_t k = 0; k < 3; ++k) permute(args, k, valid, keys);
  for (std::int64_t b = 0; b < args.batch_size; ++b) {
    const PerturbOp op = b < valid ? choice.op : PerturbOp::kNone;
    const PerturbDraw draw =
        draw_perturb(op, args.options, args.seed, static_cast<std::uint32_t>(choice.member), step,
                     static_cast<std::uint32_t>(b), args.height, args.width);
    float weights[4];
    label_weights(op, draw, args.height, args.width, weights);
    for (std::int64_t k = 0; k < 4; ++k)
      static_cast<A*>(args.label_weights)[4 * b + k] = static_cast<A>(weights[k]);
    args.mixed_labels[4 * b] = args.labels[b];
    for (std::int64_t k = 0; k < 3; ++k)
      args.mixed_labels[4 * b + 1 + k] = args.labels[args.permutations[k * args.batch_size + b]];
  }
  return choice;
}

template <class T>
void perturb(CpuStream stream, const PerturbArgs& args, Workspace workspace) {
  using A = Accumulator<T>;
  const std::int64_t rows = count_valid(args.valid_rows, args.batch_size);
  const PerturbChoice choice = plan<A>(args, rows, reinterpret_cast<std::uint64_t*>(workspace.data()));
  if (choice.op == PerturbOp::kNone) return;
  const auto member = static_cast<std::size_t>(choice.member);
  std::byte* memory = workspace.data() + keys_bytes(args);
  float* const fields = reinterpret_cast<float*>(memory);
  memory += fields_bytes(args);
  Job<T> job{args,
             choice.op,
             static_cast<std::uint32_t>(choice.member),
             static_cast<std::uint32_t>(*args.step),
             {static_cast<const T*>(args.sources[member]), args.height, args.width, args.channels},
             {args.options.domain, args.normalisation},
             fields};
  job.source.set_black(args.options.domain, args.normalisation);
  if (choice.op == PerturbOp::kElastic) {
    make_elastic_fields(stream, args, job.member, job.step, fields,
                        fields + num_fields(args) * field_floats(args));
  }
  T* const batch = static_cast<T*>(args.batches[member]);
  parallel_chunks(stream, rows, [&](std::int64_t b, int thread) {
    A* const image = reinterpret_cast<A*>(memory + static_cast<std::size_t>(thread) * image_bytes(args));
    perturb_row(job, b, image, batch + b * static_cast<std::int64_t>(image_size(args)));
  });
}

}  // namespace

std::size_t perturb_workspace(CpuStream stream, const PerturbArgs& args) {
  const auto threads = static_cast<std::size_t>(num_threads(stream));
  return keys_bytes(args) + fields_bytes(args) +
         (in_pool(args.options, PerturbOp::kJitter) ? threads * image_bytes(args) : 0);
}

void perturb(CpuStream stream, const PerturbArgs& args, Workspace workspace) {
  validate(args);
  check(workspace.size() >= perturb_workspace(stream, args), "perturb: workspace too small");
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { perturb<T>(stream, args, workspace); });
}

}  // namespace cohort::kernels
