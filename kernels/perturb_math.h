// The pool of stochastic perturbations: what each operation draws, and what it computes for one value of one
// image. Plain functions shared by both backends.
//
// Geometry and mixing only move or blend values with weights that sum to 1, so they commute with the
// per-channel normalisation and work on the batch as it is, with black as fill. Noise and colours are
// computed on pixels in [0, 1] (PerturbDomain::kPixel) or, as the authors' code does, on the normalised
// values (kNormalised).
//
// Draws and values are the same bits on every device: every product that meets an addition is a std::fma, the
// elementary functions are those of kernels/base/portable_math.h, and an image's mean grey is an exact sum.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/augment_math.h"
#include "kernels/base/dtype.h"
#include "kernels/base/philox.h"
#include "kernels/base/portable_math.h"

namespace cohort::kernels {

enum class PerturbOp : std::int32_t {
  kNone = 0,
  kMixup = 1,    // P1  blend with a permuted image
  kCutMix = 2,   // P2  a box of a permuted image
  kSplice = 3,   // P3  2x2 mosaic of crops of four images
  kNoise = 4,    // P4  additive Gaussian
  kElastic = 5,  // P5  smooth random displacement
  kAffine = 6,   // P6  shear, shift, scale
  kCrop = 7,     // P7  crop, resized back
  kRotate = 8,   // P8
  kFlipX = 9,    // P9  left to right
  kFlipY = 10,   // P10 upside down
  kJitter = 11   // P11 colour jitter, then blur
};
inline constexpr int kNumPerturbOps = 11;

struct PerturbInfo {
  PerturbOp op;
  const char* name;
  bool geometric;     // feature maps of the perturbed member cannot be compared with the others'
  bool mixes_labels;  // targets are (B,4) labels with weights
  const char* summary;
};

inline constexpr PerturbInfo kPerturbInfos[kNumPerturbOps] = {
    {PerturbOp::kMixup, "mixup", false, true, "blend with another image, weight uniform"},
    {PerturbOp::kCutMix, "cutmix", false, true, "a box of another image"},
    {PerturbOp::kSplice, "splice", true, true, "2x2 mosaic of crops of four images"},
    {PerturbOp::kNoise, "noise", false, false, "additive Gaussian noise"},
    {PerturbOp::kElastic, "elastic", true, false, "smooth random displacement"},
    {PerturbOp::kAffine, "affine", true, false, "shear, shift and scale"},
    {PerturbOp::kCrop, "crop", true, false, "crop of 30 to 70 % of the area, resized back"},
    {PerturbOp::kRotate, "rotate", true, false, "rotation by up to 30 degrees"},
    {PerturbOp::kFlipX, "flip-x", true, false, "left to right"},
    {PerturbOp::kFlipY, "flip-y", true, false, "upside down"},
    {PerturbOp::kJitter, "jitter", false, false, "colour jitter, then Gaussian blur"},
};

COHORT_HOST_DEVICE inline bool is_geometric(PerturbOp op) {
  return op == PerturbOp::kSplice || (op >= PerturbOp::kElastic && op <= PerturbOp::kFlipY);
}

COHORT_HOST_DEVICE inline bool mixes_labels(PerturbOp op) {
  return op >= PerturbOp::kMixup && op <= PerturbOp::kSplice;
}

enum class PerturbDomain : std::uint8_t { kPixel, kNormalised };

struct PerturbOptions {
  PerturbOp pool[kNumPerturbOps] = {PerturbOp::kMixup, PerturbOp::kCutMix,  PerturbOp::kSplice,
                                    PerturbOp::kNoise, PerturbOp::kElastic, PerturbOp::kAffine,
                                    PerturbOp::kCrop};
  int pool_size = 7;
  int period = 1;           // perturb in steps that are multiples of it
  bool per_sample = false;  // parameters per sample instead of per batch
  PerturbDomain domain = PerturbDomain::kPixel;
  float noise_low = 0.05F, noise_high = 0.2F;  // standard deviation, in the domain's units
  float elastic_alpha = 2.0F;                  // pixels that 95 % of the displacements stay below
  float elastic_sigma = 4.0F;                  // pixels, of the Gaussian that smooths them; at most 21
  float shear = 15.0F;                         // degrees, either way
  float translate = 0.2F;                      // of the size, either way
  float scale_low = 0.8F, scale_high = 1.2F;
  float crop_low = 0.3F, crop_high = 0.7F;  // of the area
  float rotation = 30.0F;                   // degrees, either way
  float brightness = 0.25F, contrast = 0.15F, saturation = 0.15F, hue = 0.15F;
  int blur_width = 3, blur_height = 3;      // odd, at most kMaxBlur
  float blur_low = 0.1F, blur_high = 1.0F;  // standard deviation in pixels
};
inline constexpr int kMaxBlur = 15;
inline constexpr float kDegree = 0.017453293F;
inline constexpr int kMaxElasticRadius = 64;

// The pool of the paper. Displacement, smoothing and blur grow with the image.
constexpr PerturbOptions paper_perturbation(int image_size) {
  PerturbOptions options;
  if (image_size >= 128) {
    options.elastic_alpha = 8.0F;
    options.elastic_sigma = 16.0F;
    options.blur_width = 7;
    options.blur_height = 9;
    options.blur_high = 2.0F;
  }
  return options;
}

// Every operation.
constexpr PerturbOptions all_perturbations(int image_size) {
  PerturbOptions options = paper_perturbation(image_size);
  options.pool_size = kNumPerturbOps;
  for (int i = 0; i < kNumPerturbOps; ++i) options.pool[i] = static_cast<PerturbOp>(i + 1);
  return options;
}

// What the authors' code does: six operations, on normalised values, in every tenth step.
constexpr PerturbOptions official_perturbation(int image_size) {
  PerturbOptions options = paper_perturbation(image_size);
  constexpr PerturbOp kPool[] = {PerturbOp::kMixup, PerturbOp::kNoise, PerturbOp::kJitter,
                                 PerturbOp::kFlipX, PerturbOp::kFlipY, PerturbOp::kRotate};
  options.pool_size = 6;
  for (int i = 0; i < kNumPerturbOps; ++i) options.pool[i] = i < 6 ? kPool[i] : PerturbOp::kNone;
  options.period = 10;
  options.domain = PerturbDomain::kNormalised;
  options.noise_low = options.noise_high = 1.0F;
  return options;
}

// --- draws ---

// Parameters of one operation; only those that it uses are set.
struct PerturbDraw {
  float lambda = 1.0F;                 // mixup: weight of the sample itself
  int x0 = 0, y0 = 0, x1 = 0, y1 = 0;  // cutmix: the foreign box; crop: the box; splice: split at (x0, y0)
  int offset_x[4] = {}, offset_y[4] = {};  // splice: where each image is cropped
  float sigma = 0.0F;                      // noise, blur
  float matrix[6] = {1, 0, 0, 0, 1, 0};    // affine, rotate: source (x, y) of an output (x, y, 1)
  int order[4] = {0, 1, 2, 3};             // jitter: brightness, contrast, saturation, hue
  float factor[4] = {1.0F, 1.0F, 1.0F, 0.0F};
  int partner[3] = {};  // mixup, cutmix, splice: the rows that are mixed in, from the batch's permutations
};

COHORT_HOST_DEVICE inline int clamp_int(int x, int low, int high) {
  return x < low ? low : x > high ? high : x;
}

template <class A>
COHORT_HOST_DEVICE inline A clamp01(A x) {
  return x < A(0) ? A(0) : x > A(1) ? A(1) : x;
}

// Uniform in [low, high).
COHORT_HOST_DEVICE inline float draw_between(Rng& rng, float low, float high) {
  return std::fma(high - low, rng.uniform(), low);
}

// source = centre + L (output - centre - shift), L = (a b; c d); shifts as shares of the size.
COHORT_HOST_DEVICE inline void set_matrix(PerturbDraw& draw, float a, float b, float c, float d,
                                          float shift_x, float shift_y, int height, int width) {
  const float cx = 0.5F * static_cast<float>(width - 1);
  const float cy = 0.5F * static_cast<float>(height - 1);
  const float ox = -std::fma(static_cast<float>(width), shift_x, cx);
  const float oy = -std::fma(static_cast<float>(height), shift_y, cy);
  draw.matrix[0] = a;
  draw.matrix[1] = b;
  draw.matrix[2] = std::fma(b, oy, std::fma(a, ox, cx));
  draw.matrix[3] = c;
  draw.matrix[4] = d;
  draw.matrix[5] = std::fma(d, oy, std::fma(c, ox, cy));
}

COHORT_HOST_DEVICE inline void draw_cutmix(PerturbDraw& draw, Rng& rng, int height, int width) {
  const float side = std::sqrt(1.0F - rng.uniform());
  const int box_width = static_cast<int>(side * static_cast<float>(width));
  const int box_height = static_cast<int>(side * static_cast<float>(height));
  const int cx = static_cast<int>(rng.below(static_cast<std::uint32_t>(width)));
  const int cy = static_cast<int>(rng.below(static_cast<std::uint32_t>(height)));
  draw.x0 = clamp_int(cx - box_width / 2, 0, width);
  draw.x1 = clamp_int(cx - box_width / 2 + box_width, 0, width);
  draw.y0 = clamp_int(cy - box_height / 2, 0, height);
  draw.y1 = clamp_int(cy - box_height / 2 + box_height, 0, height);
}

COHORT_HOST_DEVICE inline void draw_splice(PerturbDraw& draw, Rng& rng, int height, int width) {
  draw.x0 = static_cast<int>(std::fma(draw_between(rng, 0.3F, 0.7F), static_cast<float>(width), 0.5F));
  draw.y0 = static_cast<int>(std::fma(draw_between(rng, 0.3F, 0.7F), static_cast<float>(height), 0.5F));
  for (int k = 0; k < 4; ++k) {
    const int part_width = (k & 1) == 0 ? draw.x0 : width - draw.x0;
    const int part_height = (k & 2) == 0 ? draw.y0 : height - draw.y0;
    draw.offset_x[k] = static_cast<int>(rng.below(static_cast<std::uint32_t>(width - part_width + 1)));
    draw.offset_y[k] = static_cast<int>(rng.below(static_cast<std::uint32_t>(height - part_height + 1)));
  }
}

COHORT_HOST_DEVICE inline void draw_crop(const PerturbOptions& options, PerturbDraw& draw, Rng& rng,
                                         int height, int width) {
  constexpr double kLogOfMost = 0.28768207245178090;  // log(4/3): sides between 3:4 and 4:3
  const float area = draw_between(rng, options.crop_low, options.crop_high);
  const double tilt = static_cast<double>(draw_between(rng, -1.0F, 1.0F));
  const float aspect = static_cast<float>(portable_exp(tilt * kLogOfMost));
  const float wide = std::fma(std::sqrt(area * aspect), static_cast<float>(width), 0.5F);
  const float high = std::fma(std::sqrt(area / aspect), static_cast<float>(height), 0.5F);
  const int box_width = clamp_int(static_cast<int>(wide), 1, width);
  const int box_height = clamp_int(static_cast<int>(high), 1, height);
  draw.x0 = static_cast<int>(rng.below(static_cast<std::uint32_t>(width - box_width + 1)));
  draw.y0 = static_cast<int>(rng.below(static_cast<std::uint32_t>(height - box_height + 1)));
  draw.x1 = draw.x0 + box_width;
  draw.y1 = draw.y0 + box_height;
}

COHORT_HOST_DEVICE inline void draw_jitter(const PerturbOptions& options, PerturbDraw& draw, Rng& rng) {
  draw.factor[0] = 1.0F + draw_between(rng, -options.brightness, options.brightness);
  draw.factor[1] = 1.0F + draw_between(rng, -options.contrast, options.contrast);
  draw.factor[2] = 1.0F + draw_between(rng, -options.saturation, options.saturation);
  draw.factor[3] = draw_between(rng, -options.hue, options.hue);
  draw.sigma = draw_between(rng, options.blur_low, options.blur_high);
  for (int i = 3; i > 0; --i) {
    const int j = static_cast<int>(rng.below(static_cast<std::uint32_t>(i + 1)));
    const int other = draw.order[j];
    draw.order[j] = draw.order[i];
    draw.order[i] = other;
  }
}

COHORT_HOST_DEVICE inline void draw_affine(const PerturbOptions& options, PerturbDraw& draw, Rng& rng,
                                           int height, int width) {
  double sine, cosine;
  portable_sine_cosine(static_cast<double>(kDegree * draw_between(rng, -options.shear, options.shear)), sine,
                       cosine);
  const float shift_x = draw_between(rng, -options.translate, options.translate);
  const float shift_y = draw_between(rng, -options.translate, options.translate);
  const float inverse = 1.0F / draw_between(rng, options.scale_low, options.scale_high);
  set_matrix(draw, inverse, inverse * static_cast<float>(sine / cosine), 0.0F, inverse, shift_x, shift_y,
             height, width);
}

COHORT_HOST_DEVICE inline void draw_rotate(const PerturbOptions& options, PerturbDraw& draw, Rng& rng,
                                           int height, int width) {
  double sine, cosine;
  portable_sine_cosine(static_cast<double>(kDegree * draw_between(rng, -options.rotation, options.rotation)),
                       sine, cosine);
  const float s = static_cast<float>(sine);
  const float c = static_cast<float>(cosine);
  set_matrix(draw, c, -s, s, c, 0.0F, 0.0F, height, width);
}

// The parameters for `row` of the batch (0 when drawn once per batch). Mixing weights are Beta(1,1), that is
// uniform.
COHORT_HOST_DEVICE inline PerturbDraw draw_perturb(PerturbOp op, const PerturbOptions& options,
                                                   std::uint64_t seed, std::uint32_t member,
                                                   std::uint32_t step, std::uint32_t row, int height,
                                                   int width) {
  Rng rng(RngAddress{seed, RngPurpose::kPerturb, member, step, options.per_sample ? row : 0U,
                     static_cast<std::uint32_t>(op)});
  PerturbDraw draw;
  switch (op) {
    case PerturbOp::kMixup:
      draw.lambda = rng.uniform();
      break;
    case PerturbOp::kCutMix:
      draw_cutmix(draw, rng, height, width);
      break;
    case PerturbOp::kSplice:
      draw_splice(draw, rng, height, width);
      break;
    case PerturbOp::kNoise:
      draw.sigma = draw_between(rng, options.noise_low, options.noise_high);
      break;
    case PerturbOp::kAffine:
      draw_affine(options, draw, rng, height, width);
      break;
    case PerturbOp::kCrop:
      draw_crop(options, draw, rng, height, width);
      break;
    case PerturbOp::kRotate:
      draw_rotate(options, draw, rng, height, width);
      break;
    case PerturbOp::kJitter:
      draw_jitter(options, draw, rng);
      break;
    default:
      break;
  }
  return draw;
}

struct PerturbChoice {
  std::int32_t member = -1;  // -1: nobody is perturbed in this step
  PerturbOp op = PerturbOp::kNone;
};

COHORT_HOST_DEVICE inline PerturbChoice choose_perturbation(const PerturbOptions& options, std::uint64_t seed,
                                                            std::uint32_t step, int num_members) {
  if (options.pool_size <= 0 || num_members <= 0) return {};
  if (options.period > 1 && step % static_cast<std::uint32_t>(options.period) != 0) return {};
  Rng rng(RngAddress{seed, RngPurpose::kPerturbPlan, 0, step, 0, 0});
  PerturbChoice choice;
  choice.op = options.pool[rng.below(static_cast<std::uint32_t>(options.pool_size))];
  choice.member = static_cast<std::int32_t>(rng.below(static_cast<std::uint32_t>(num_members)));
  return choice;
}

// Rows are permuted by ranking these keys: parallel on a GPU, a sort on a CPU, the same order on both.
COHORT_HOST_DEVICE inline std::uint32_t permutation_key(std::uint64_t seed, std::uint32_t step,
                                                        std::uint32_t which, std::uint32_t row) {
  return Rng(RngAddress{seed, RngPurpose::kPerturbPlan, 0, step, row, 1U + which}).bits();
}

// The share of each of a row's four labels: itself, then the permuted images in order.
COHORT_HOST_DEVICE inline void label_weights(PerturbOp op, const PerturbDraw& draw, int height, int width,
                                             float weights[4]) {
  const float area = static_cast<float>(height) * static_cast<float>(width);
  weights[0] = 1.0F;
  weights[1] = weights[2] = weights[3] = 0.0F;
  if (op == PerturbOp::kMixup) {
    weights[0] = draw.lambda;
    weights[1] = 1.0F - draw.lambda;
  } else if (op == PerturbOp::kCutMix) {
    weights[1] = static_cast<float>((draw.x1 - draw.x0) * (draw.y1 - draw.y0)) / area;
    weights[0] = 1.0F - weights[1];
  } else if (op == PerturbOp::kSplice) {
    for (int k = 0; k < 4; ++k) {
      const int part_width = (k & 1) == 0 ? draw.x0 : width - draw.x0;
      const int part_height = (k & 2) == 0 ? draw.y0 : height - draw.y0;
      weights[k] = static_cast<float>(part_width * part_height) / area;
    }
  }
}

// --- values ---

// The perturbed member's batch before the operation.
template <class T>
struct PerturbSource {
  using A = Accumulator<T>;
  const T* images = nullptr;  // (B,H,W,C)
  int height = 0, width = 0, channels = 0;
  A fill[kMaxImageChannels] = {};  // black

  void set_black(PerturbDomain domain, const Normalisation& n) {
    for (int c = 0; c < channels; ++c) {
      fill[c] = domain == PerturbDomain::kPixel ? normalise<A>(0, n.mean[c], n.std[c]) : A(0);
    }
  }
  COHORT_HOST_DEVICE A at(std::int64_t b, int y, int x, int c) const {
    return static_cast<A>(images[((b * height + y) * width + x) * channels + c]);
  }
};

// ... 2 1 0 1 2 ... n-2 n-1 n-2 ...
COHORT_HOST_DEVICE inline int reflect(int i, int n) {
  if (i >= 0 && i < n) return i;
  if (n == 1) return 0;
  const int period = 2 * (n - 1);
  i = i < 0 ? -i : i;
  i %= period;
  return i < n ? i : period - i;
}

enum class Border : std::uint8_t { kFill, kReflect };

template <class T>
COHORT_HOST_DEVICE inline Accumulator<T> tap(const PerturbSource<T>& s, std::int64_t b, int y, int x, int c,
                                             Border border) {
  if (border == Border::kReflect) return s.at(b, reflect(y, s.height), reflect(x, s.width), c);
  return y < 0 || y >= s.height || x < 0 || x >= s.width ? s.fill[c] : s.at(b, y, x, c);
}

template <class T>
COHORT_HOST_DEVICE inline Accumulator<T> bilinear(const PerturbSource<T>& s, std::int64_t b, float y, float x,
                                                  int c, Border border) {
  using A = Accumulator<T>;
  const float fy = std::floor(y);
  const float fx = std::floor(x);
  const int iy = static_cast<int>(fy);
  const int ix = static_cast<int>(fx);
  const A wy = static_cast<A>(y - fy);
  const A wx = static_cast<A>(x - fx);
  const A v00 = tap(s, b, iy, ix, c, border);
  const A v01 = tap(s, b, iy, ix + 1, c, border);
  const A v10 = tap(s, b, iy + 1, ix, c, border);
  const A v11 = tap(s, b, iy + 1, ix + 1, c, border);
  const A top = std::fma(wx, v01 - v00, v00);
  const A bottom = std::fma(wx, v11 - v10, v10);
  return std::fma(wy, bottom - top, top);
}

// Value (y, x, c) of row b after a mixing or geometric operation. `displacement`: (dx, dy) of this pixel, for
// kElastic.
template <PerturbOp kOp, class T>
COHORT_HOST_DEVICE inline Accumulator<T> moved_value(const PerturbSource<T>& s, const PerturbDraw& draw,
                                                     const float* displacement, std::int64_t b, int y, int x,
                                                     int c) {
  using A = Accumulator<T>;
  if constexpr (kOp == PerturbOp::kMixup) {
    const A other = s.at(draw.partner[0], y, x, c);
    return std::fma(static_cast<A>(draw.lambda), s.at(b, y, x, c) - other, other);
  } else if constexpr (kOp == PerturbOp::kCutMix) {
    const bool foreign = x >= draw.x0 && x < draw.x1 && y >= draw.y0 && y < draw.y1;
    return s.at(foreign ? draw.partner[0] : b, y, x, c);
  } else if constexpr (kOp == PerturbOp::kSplice) {
    const int k = (x >= draw.x0 ? 1 : 0) + (y >= draw.y0 ? 2 : 0);
    const int local_x = (k & 1) == 0 ? x : x - draw.x0;
    const int local_y = (k & 2) == 0 ? y : y - draw.y0;
    return s.at(k == 0 ? b : draw.partner[k - 1], local_y + draw.offset_y[k], local_x + draw.offset_x[k], c);
  } else if constexpr (kOp == PerturbOp::kElastic) {
    return bilinear(s, b, static_cast<float>(y) + displacement[1], static_cast<float>(x) + displacement[0], c,
                    Border::kReflect);
  } else if constexpr (kOp == PerturbOp::kCrop) {
    const float box_width = static_cast<float>(draw.x1 - draw.x0);
    const float box_height = static_cast<float>(draw.y1 - draw.y0);
    const float u = (static_cast<float>(x) + 0.5F) * box_width / static_cast<float>(s.width) - 0.5F;
    const float v = (static_cast<float>(y) + 0.5F) * box_height / static_cast<float>(s.height) - 0.5F;
    const float inside_u = u < 0.0F ? 0.0F : u > box_width - 1.0F ? box_width - 1.0F : u;
    const float inside_v = v < 0.0F ? 0.0F : v > box_height - 1.0F ? box_height - 1.0F : v;
    return bilinear(s, b, static_cast<float>(draw.y0) + inside_v, static_cast<float>(draw.x0) + inside_u, c,
                    Border::kReflect);
  } else if constexpr (kOp == PerturbOp::kFlipX) {
    return s.at(b, y, s.width - 1 - x, c);
  } else if constexpr (kOp == PerturbOp::kFlipY) {
    return s.at(b, s.height - 1 - y, x, c);
  } else {
    const float fx = static_cast<float>(x);
    const float fy = static_cast<float>(y);
    const float u = std::fma(draw.matrix[0], fx, std::fma(draw.matrix[1], fy, draw.matrix[2]));
    const float v = std::fma(draw.matrix[3], fx, std::fma(draw.matrix[4], fy, draw.matrix[5]));
    if constexpr (kOp == PerturbOp::kAffine) return bilinear(s, b, v, u, c, Border::kFill);
    return tap(s, b, static_cast<int>(std::floor(v + 0.5F)), static_cast<int>(std::floor(u + 0.5F)), c,
               Border::kFill);
  }
}

// Four standard normals of one Philox block (both branches of Box-Muller, twice).
COHORT_HOST_DEVICE inline void four_normals(const RngAddress& address, std::uint32_t block, float out[4]) {
  Rng rng(address, block);
  for (int i = 0; i < 4; i += 2) {
    const float u = static_cast<float>((rng.bits() >> 8) + 1U) * 0x1p-24F;  // (0, 1]
    float sine, cosine;
    portable_turn(rng.uniform(), sine, cosine);
    const float radius = std::sqrt(-2.0F * portable_log(u));
    out[i] = radius * cosine;
    out[i + 1] = radius * sine;
  }
}

COHORT_HOST_DEVICE inline RngAddress noise_address(std::uint64_t seed, std::uint32_t member,
                                                   std::uint32_t step, std::uint32_t row) {
  return RngAddress{seed, RngPurpose::kPerturb, member, step, row, 256U};
}

COHORT_HOST_DEVICE inline RngAddress elastic_address(std::uint64_t seed, std::uint32_t member,
                                                     std::uint32_t step, std::uint32_t row) {
  return RngAddress{seed, RngPurpose::kPerturb, member, step, row, 257U};
}

// Normalised Gaussian weights g[-radius..radius], stored from g[0]; returns the sum of their squares.
COHORT_HOST_DEVICE inline float gaussian_weights(float sigma, int radius, float* g) {
  float sum = 0.0F;
  for (int i = -radius; i <= radius; ++i) {
    const double t = static_cast<double>(static_cast<float>(i) / sigma);
    sum += g[i + radius] = static_cast<float>(portable_exp(-0.5 * t * t));
  }
  float squares = 0.0F;
  for (int i = 0; i <= 2 * radius; ++i) {
    g[i] /= sum;
    squares = std::fma(g[i], g[i], squares);
  }
  return squares;
}

COHORT_HOST_DEVICE inline int elastic_radius(float sigma) {
  return clamp_int(static_cast<int>(std::ceil(3.0F * sigma)), 0, kMaxElasticRadius);
}

// Uniform noise in [-1, 1] has deviation 1/sqrt(3), which smoothing along both axes multiplies by `squares`:
// the factor that makes alpha two standard deviations.
COHORT_HOST_DEVICE inline float elastic_scale(float alpha, float squares) {
  return 0.5F * alpha * 1.7320508F / squares;
}

// Between the batch's normalised values and the domain of noise and colours.
template <class A>
struct PerturbUnits {
  bool pixel = true;
  A mean[kMaxImageChannels] = {};
  A std[kMaxImageChannels] = {};

  PerturbUnits() = default;
  PerturbUnits(PerturbDomain domain, const Normalisation& n) : pixel(domain == PerturbDomain::kPixel) {
    for (int c = 0; c < kMaxImageChannels; ++c) {
      mean[c] = static_cast<A>(n.mean[c]);
      std[c] = static_cast<A>(n.std[c]);
    }
  }
  COHORT_HOST_DEVICE A into(A value, int c) const { return pixel ? std::fma(value, std[c], mean[c]) : value; }
  COHORT_HOST_DEVICE A back(A value, int c) const {
    return pixel ? (clamp01(value) - mean[c]) / std[c] : value;
  }
};

// --- colours, as torchvision's ColorJitter ---

template <class A>
COHORT_HOST_DEVICE inline A grey(const A* rgb, int channels) {
  if (channels != 3) return rgb[0];
  return std::fma(A(0.114F), rgb[2], std::fma(A(0.587F), rgb[1], A(0.2989F) * rgb[0]));
}

// Greys are summed in units of 2^-32, so that the order of the sum does not matter. 2^17 pixels of up to 2^13
// fit in 63 bits; values of images are below 10.
template <class A>
COHORT_HOST_DEVICE inline std::int64_t grey_units(A value) {
  constexpr A kMost = A(8192);
  value = value < kMost ? value : kMost;
  value = value > -kMost ? value : -kMost;
  return static_cast<std::int64_t>(value * A(4294967296.0));
}

COHORT_HOST_DEVICE inline double mean_of_units(std::int64_t sum, std::int64_t pixels) {
  return static_cast<double>(sum) / (4294967296.0 * static_cast<double>(pixels));
}

template <class A>
COHORT_HOST_DEVICE inline void shift_hue(A* rgb, A shift) {
  const A high = rgb[0] > rgb[1] ? (rgb[0] > rgb[2] ? rgb[0] : rgb[2]) : (rgb[1] > rgb[2] ? rgb[1] : rgb[2]);
  const A low = rgb[0] < rgb[1] ? (rgb[0] < rgb[2] ? rgb[0] : rgb[2]) : (rgb[1] < rgb[2] ? rgb[1] : rgb[2]);
  const A range = high - low;
  if (!(range > A(0))) return;
  A hue = high == rgb[0]   ? (rgb[1] - rgb[2]) / range
          : high == rgb[1] ? A(2) + (rgb[2] - rgb[0]) / range
                           : A(4) + (rgb[0] - rgb[1]) / range;
  hue = std::fma(A(6), shift, hue);
  for (int c = 0; c < 3;
       ++c) {  // channel = high - range * clamp(min(k, 4 - k), 0, 1), k = (5 - 2c + hue) mod 6
    A k = hue + A(5 - 2 * c);
    k = std::fma(A(-6), std::floor(k / A(6)), k);
    const A edge = k < A(4) - k ? k : A(4) - k;
    rgb[c] = std::fma(-range, clamp01(edge), high);
  }
}

// One of brightness (0), contrast (1), saturation (2), hue (3). `mean` is the image's mean grey, for
// contrast. Channels other than three: brightness and contrast only.
template <class A>
COHORT_HOST_DEVICE inline void jitter_pixel(int which, A factor, A mean, int channels, A* pixel) {
  if (which == 3) {
    if (channels == 3) shift_hue(pixel, factor);
    return;
  }
  if (which == 2 && channels != 3) return;
  const A other = which == 0 ? A(0) : which == 1 ? mean : grey(pixel, channels);
  for (int c = 0; c < channels; ++c) {
    pixel[c] = clamp01(std::fma(factor, pixel[c], (A(1) - factor) * other));
  }
}

}  // namespace cohort::kernels
