#include "kernels/perturb.h"

#include <algorithm>
#include <type_traits>

#include "kernels/base/error.h"
#include "kernels/cpu/parallel.h"

namespace cohort::kernels {
namespace {

bool in_pool(const PerturbOptions& options, PerturbOp op) {
  return std::find(options.pool, options.pool + options.pool_size, op) != options.pool + options.pool_size;
}

std::size_t round_up(std::size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

std::size_t source_bytes(const PerturbArgs& args) {
  return round_up(static_cast<std::size_t>(args.batch_size * args.height * args.width * args.channels) *
                  size_of(accumulator_of(args.dtype)));
}

// Displacements of one image.
std::size_t field_floats(const PerturbArgs& args) {
  return static_cast<std::size_t>(args.height) * static_cast<std::size_t>(args.width) * 2;
}

std::size_t num_fields(const PerturbArgs& args) {
  if (!in_pool(args.options, PerturbOp::kElastic)) return 0;
  return args.options.per_sample ? static_cast<std::size_t>(args.batch_size) : 1;
}

std::int64_t valid_rows(const PerturbArgs& args) {
  return args.valid_rows == nullptr ? args.batch_size : std::int64_t{*args.valid_rows};
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

// What the pixel kernel needs to know about this step.
template <class A>
struct Job {
  const PerturbArgs& args;
  PerturbOp op;
  std::uint32_t member, step;
  PerturbSource<A> source;
  PerturbUnits<A> units;
  const float* fields;  // (num_fields,H,W,2)

  PerturbDraw draw(std::int64_t b) const {
    return draw_perturb(op, args.options, args.seed, member, step, static_cast<std::uint32_t>(b), args.height,
                        args.width);
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

template <PerturbOp kOp, class T, class A>
void move_row(const Job<A>& job, std::int64_t b, T* out) {
  const PerturbDraw draw = job.draw(b);
  const float* const field = job.fields == nullptr
                                 ? nullptr
                                 : job.fields + (job.args.options.per_sample ? b : 0) *
                                                    static_cast<std::int64_t>(field_floats(job.args));
  const PerturbSource<A>& s = job.source;
  for (int y = 0; y < s.height; ++y) {
    for (int x = 0; x < s.width; ++x) {
      for (int c = 0; c < s.channels; ++c) *out++ = T(moved_value<kOp>(s, draw, field, b, y, x, c));
    }
  }
}

template <class T, class A>
void noise_row(const Job<A>& job, std::int64_t b, T* out) {
  const A sigma = static_cast<A>(job.draw(b).sigma);
  const RngAddress address =
      noise_address(job.args.seed, job.member, job.step, static_cast<std::uint32_t>(b));
  const PerturbSource<A>& s = job.source;
  const std::int64_t count = std::int64_t{s.height} * s.width * s.channels;
  const A* const in = s.images + b * count;
  float normals[4] = {};
  int c = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (i % 4 == 0) four_normals(address, static_cast<std::uint32_t>(i / 4), normals);
    const A value = clamp01(std::fma(sigma, static_cast<A>(normals[i % 4]), job.units.into(in[i], c)));
    out[i] = T(job.units.back(value, c));
    c = c + 1 == s.channels ? 0 : c + 1;
  }
}

// The four colour operations in drawn order, in place on one image of the source.
template <class A>
void jitter_row(const Job<A>& job, std::int64_t b, A* image) {
  const PerturbDraw draw = job.draw(b);
  const int channels = job.args.channels;
  const std::int64_t pixels = std::int64_t{job.args.height} * job.args.width;
  for (std::int64_t p = 0; p < pixels; ++p) {
    for (int c = 0; c < channels; ++c) image[p * channels + c] = job.units.into(image[p * channels + c], c);
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

// The source holds jittered colours in the domain's units.
template <class T, class A>
void blur_row(const Job<A>& job, std::int64_t b, T* out) {
  const PerturbOptions& options = job.args.options;
  const float sigma = job.draw(b).sigma;
  const int rx = std::min(options.blur_width, kMaxBlur) / 2;
  const int ry = std::min(options.blur_height, kMaxBlur) / 2;
  float gx[kMaxBlur], gy[kMaxBlur];
  gaussian_weights(sigma, rx, gx);
  gaussian_weights(sigma, ry, gy);
  const PerturbSource<A>& s = job.source;
  for (int y = 0; y < s.height; ++y) {
    for (int x = 0; x < s.width; ++x) {
      for (int c = 0; c < s.channels; ++c) {
        A sum = A(0);
        for (int j = -ry; j <= ry; ++j) {
          A row = A(0);
          for (int i = -rx; i <= rx; ++i) {
            row = std::fma(static_cast<A>(gx[i + rx]),
                           s.at(b, reflect(y + j, s.height), reflect(x + i, s.width), c), row);
          }
          sum = std::fma(static_cast<A>(gy[j + ry]), row, sum);
        }
        *out++ = T(job.units.back(sum, c));
      }
    }
  }
}

template <class T, class A>
void perturb_row(const Job<A>& job, std::int64_t b, T* out) {
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
      return blur_row(job, b, out);
    case PerturbOp::kNone:
      return;
  }
}

template <class T>
void perturb(CpuStream stream, const PerturbArgs& args, Workspace workspace) {
  using A = Accumulator<T>;
  const std::int32_t member = *args.member;
  const auto op = static_cast<PerturbOp>(*args.operation);
  if (member < 0 || op == PerturbOp::kNone) return;
  T* const batch = static_cast<T*>(args.batches[static_cast<std::size_t>(member)]);
  A* const copy = reinterpret_cast<A*>(workspace.data());
  float* const fields = reinterpret_cast<float*>(workspace.data() + source_bytes(args));
  const std::int64_t pixels = std::int64_t{args.height} * args.width * args.channels;
  const std::int64_t rows = valid_rows(args);
  Job<A> job{args,
             op,
             static_cast<std::uint32_t>(member),
             static_cast<std::uint32_t>(*args.step),
             {copy, args.permutations, args.batch_size, args.height, args.width, args.channels},
             {args.options.domain, args.normalisation},
             op == PerturbOp::kElastic ? fields : nullptr};
  job.source.set_black(args.options.domain, args.normalisation);
  parallel_for(stream, rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * pixels; i < end * pixels; ++i) copy[i] = static_cast<A>(batch[i]);
    for (std::int64_t b = begin; op == PerturbOp::kJitter && b < end; ++b)
      jitter_row(job, b, copy + b * pixels);
  });
  if (op == PerturbOp::kElastic) {
    make_elastic_fields(stream, args, job.member, job.step, fields,
                        fields + num_fields(args) * field_floats(args));
  }
  parallel_for(stream, rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) perturb_row(job, b, batch + b * pixels);
  });
}

}  // namespace

std::size_t perturb_workspace(const PerturbArgs& args) {
  const std::size_t keys = static_cast<std::size_t>(args.batch_size) * sizeof(std::uint64_t);
  return std::max(round_up(keys),
                  source_bytes(args) + round_up(2 * num_fields(args) * field_floats(args) * sizeof(float)));
}

void perturb_plan(CpuStream, const PerturbArgs& args, Workspace workspace) {
  check(workspace.size() >= perturb_workspace(args), "perturb_plan: workspace too small");
  const auto step = static_cast<std::uint32_t>(*args.step);
  const PerturbChoice choice =
      choose_perturbation(args.options, args.seed, step, static_cast<int>(args.batches.size()));
  *args.member = choice.member;
  *args.operation = static_cast<std::int32_t>(choice.op);
  if (args.moved_member != nullptr) *args.moved_member = is_geometric(choice.op) ? choice.member : -1;
  const std::int64_t valid = valid_rows(args);
  for (std::uint32_t k = 0; k < 3; ++k) {
    permute(args, k, valid, reinterpret_cast<std::uint64_t*>(workspace.data()));
  }
  for (std::int64_t b = 0; b < args.batch_size; ++b) {
    const PerturbOp op = b < valid ? choice.op : PerturbOp::kNone;
    const PerturbDraw draw =
        draw_perturb(op, args.options, args.seed, static_cast<std::uint32_t>(choice.member), step,
                     static_cast<std::uint32_t>(b), args.height, args.width);
    float weights[4];
    label_weights(op, draw, args.height, args.width, weights);
    for (std::int64_t k = 0; k < 4; ++k) {
      if (args.dtype == DType::f64) {
        static_cast<double*>(args.label_weights)[4 * b + k] = static_cast<double>(weights[k]);
      } else {
        static_cast<float*>(args.label_weights)[4 * b + k] = weights[k];
      }
    }
    args.mixed_labels[4 * b] = args.labels[b];
    for (std::int64_t k = 0; k < 3; ++k) {
      args.mixed_labels[4 * b + 1 + k] = args.labels[args.permutations[k * args.batch_size + b]];
    }
  }
}

void perturb(CpuStream stream, const PerturbArgs& args, Workspace workspace) {
  check(workspace.size() >= perturb_workspace(args), "perturb: workspace too small");
  check(args.channels >= 1 && args.channels <= kMaxImageChannels, "perturb: 1 to 4 channels");
  dispatch_float(args.dtype, [&]<class T>(std::type_identity<T>) { perturb<T>(stream, args, workspace); });
}

}  // namespace cohort::kernels
