#include "data/shapes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "data/shape_kinds.h"
#include "kernels/base/error.h"
#include "kernels/base/philox.h"
#include "kernels/cpu/parallel.h"

namespace cohort::data {
namespace {

constexpr float kPi = 3.14159265F;

struct Colour {
  float r = 0.0F, g = 0.0F, b = 0.0F;
};

Colour mix(const Colour& a, const Colour& b, float t) {
  return {a.r + t * (b.r - a.r), a.g + t * (b.g - a.g), a.b + t * (b.b - a.b)};
}

Colour scale(const Colour& a, float s) {
  return {a.r * s, a.g * s, a.b * s};
}

float contrast(const Colour& a, const Colour& b) {
  const float dr = a.r - b.r, dg = a.g - b.g, db = a.b - b.b;
  return std::sqrt(dr * dr + dg * dg + db * db);
}

Colour from_hsv(float hue, float saturation, float value) {
  auto channel = [&](float shift) {
    const float k = std::fmod(shift + 6.0F * hue, 6.0F);
    return value * (1.0F - saturation * std::clamp(std::min(k, 4.0F - k), 0.0F, 1.0F));
  };
  return {channel(5.0F), channel(3.0F), channel(1.0F)};
}

struct Turn {
  float cosine = 1.0F, sine = 0.0F;
  explicit Turn(float angle) : cosine(std::cos(angle)), sine(std::sin(angle)) {}
  Point operator()(Point p) const { return {cosine * p.x + sine * p.y, cosine * p.y - sine * p.x}; }
};

// Two colours and the pattern that alternates them.
struct Surface {
  Colour first, second;
  int pattern = 0;
  float frequency = 1.0F;
  Turn turn{0.0F};
  Point shift;
  std::uint32_t seed = 0;

  Colour at(Point p) const {
    const Point q = turn(p);
    return mix(first, second,
               pattern_value(pattern, {frequency * q.x + shift.x, frequency * q.y + shift.y}, seed));
  }
};

// What a class fixes; -1: free.
struct ClassRule {
  int outline = 0, pattern = -1, hue = -1, num_hues = 1;
};

ClassRule class_rule(int label, int num_classes) {
  ClassRule rule{.outline = label % kNumOutlines};
  if (num_classes <= kNumOutlines) return rule;
  rule.pattern = label / kNumOutlines % kNumPatterns;
  const int combinations = kNumOutlines * kNumPatterns;
  if (num_classes <= combinations) return rule;
  rule.num_hues = (num_classes + combinations - 1) / combinations;
  rule.hue = label / combinations;
  return rule;
}

Surface draw_surface(Rng& rng, float low_frequency, float high_frequency, float low_value = 0.25F,
                     float high_value = 1.0F) {
  Surface surface;
  const float hue = rng.uniform();
  const float value = rng.uniform(low_value, high_value);
  surface.first = from_hsv(hue, rng.uniform(0.15F, 0.85F), value);
  // The second colour is darker or lighter and has a hue of its own, near or far.
  const float other = value > 0.6F ? value * rng.uniform(0.3F, 0.7F) : value + rng.uniform(0.25F, 0.5F);
  surface.second = from_hsv(std::fmod(hue + 1.0F + rng.uniform(-0.3F, 0.3F), 1.0F), rng.uniform(0.1F, 0.8F),
                            std::min(other, 1.0F));
  surface.pattern = static_cast<int>(rng.below(kNumPatterns));
  surface.frequency = rng.uniform(low_frequency, high_frequency);
  surface.turn = Turn(rng.uniform(-kPi, kPi));
  surface.shift = {rng.uniform(), rng.uniform()};
  surface.seed = rng.bits();
  return surface;
}

struct Figure {
  int outline = 0;
  Point centre;
  float radius = 0.5F, stretch = 1.0F;
  Turn turn{0.0F};
  Surface surface;
  bool fragment = false;  // cut by a line through its middle
  Turn cut{0.0F};

  Point local(Point p) const {
    const Point q = turn({p.x - centre.x, p.y - centre.y});
    return {q.x / (radius * stretch), q.y * stretch / radius};
  }
  // In units of the image; approximate where the figure is stretched.
  float distance(Point q) const {
    float d = outline_distance(outline, q);
    if (fragment) d = std::max(d, cut(q).x);
    return d * radius * std::min(stretch, 1.0F / stretch);
  }
  bool near(Point p, float margin) const {
    const float reach = 1.25F * radius + margin;
    return std::abs(p.x - centre.x) < reach && std::abs(p.y - centre.y) < reach;
  }
};

Figure draw_figure(Rng& rng) {
  Figure figure;
  figure.centre = {rng.uniform(-0.28F, 0.28F), rng.uniform(-0.28F, 0.28F)};
  figure.radius = rng.uniform(0.55F, 0.8F);
  figure.stretch = std::exp(rng.uniform(-0.15F, 0.15F));
  figure.turn = Turn(rng.uniform(-0.6F, 0.6F));
  figure.surface = draw_surface(rng, 0.9F, 1.7F, 0.55F, 1.0F);
  // The outline, not the pattern, is the strongest edge of most figures.
  figure.surface.second = mix(figure.surface.first, figure.surface.second, rng.uniform(0.3F, 0.9F));
  return figure;
}

Figure draw_fragment(Rng& rng) {
  Figure figure;
  figure.outline = static_cast<int>(rng.below(kNumOutlines));
  figure.centre = {rng.uniform(-1.0F, 1.0F), rng.uniform(-1.0F, 1.0F)};
  figure.radius = rng.uniform(0.14F, 0.32F);
  figure.turn = Turn(rng.uniform(-kPi, kPi));
  figure.surface = draw_surface(rng, 0.8F, 1.5F);
  figure.fragment = true;
  figure.cut = Turn(rng.uniform(-kPi, kPi));
  return figure;
}

// Everything about one image.
struct Scene {
  static constexpr int kMaxFragments = 4;
  std::array<Surface, 2> ground;
  float ground_scale = 1.0F, ground_bias = 0.0F;
  std::uint32_t ground_seed = 0;
  std::array<Figure, kMaxFragments> fragments;
  int num_fragments = 0;
  Figure figure;
  bool occluded = false;
  Turn bar_turn{0.0F};
  float bar_offset = 0.0F, bar_half_width = 0.0F;
  Surface bar;
  Point light;  // gradient of the brightness over the image
  float brightness = 1.0F;
  Colour cast;
  Point shadow;
  float noise = 0.0F;
};

void apply_rule(const ClassRule& rule, Rng& rng, Figure& figure) {
  figure.outline = rule.outline;
  if (rule.pattern >= 0) figure.surface.pattern = rule.pattern;
  if (rule.hue < 0) return;
  auto recolour = [&](float value) {
    const float place = static_cast<float>(rule.hue) + rng.uniform(0.15F, 0.85F);
    return from_hsv(place / static_cast<float>(rule.num_hues), rng.uniform(0.6F, 0.9F), value);
  };
  figure.surface.first = recolour(rng.uniform(0.7F, 1.0F));
  figure.surface.second = recolour(rng.uniform(0.3F, 0.5F));
}

Scene draw_scene(Rng& rng, const ClassRule& rule) {
  Scene scene;
  for (Surface& ground : scene.ground) {
    ground = draw_surface(rng, 1.2F, 3.2F, 0.2F, 0.75F);
    ground.second = mix(ground.first, ground.second, rng.uniform(0.15F, 0.65F));
  }
  scene.ground_scale = rng.uniform(0.8F, 1.6F);
  scene.ground_bias = rng.uniform(-0.5F, 0.5F);
  scene.ground_seed = rng.bits();
  scene.num_fragments = 1 + static_cast<int>(rng.below(Scene::kMaxFragments));
  for (int i = 0; i < scene.num_fragments; ++i)
    scene.fragments[static_cast<std::size_t>(i)] = draw_fragment(rng);
  // A figure that cannot be told from its ground teaches nothing: draw until the colours differ.
  const Surface& near = scene.ground[0];
  const Surface& far = scene.ground[1];
  const Colour ground = mix(mix(near.first, near.second, 0.5F), mix(far.first, far.second, 0.5F), 0.5F);
  for (int attempt = 0; attempt < 8; ++attempt) {
    scene.figure = draw_figure(rng);
    apply_rule(rule, rng, scene.figure);
    if (contrast(mix(scene.figure.surface.first, scene.figure.surface.second, 0.5F), ground) > 0.5F) break;
  }
  scene.occluded = rng.uniform() < 0.2F;
  scene.bar_turn = Turn(rng.uniform(-kPi, kPi));
  scene.bar_offset = scene.bar_turn(scene.figure.centre).x + rng.uniform(-0.6F, 0.6F) * scene.figure.radius;
  scene.bar_half_width = rng.uniform(0.04F, 0.1F);
  scene.bar = draw_surface(rng, 1.2F, 3.0F);
  const float light_angle = rng.uniform(-kPi, kPi);
  const float light = rng.uniform(0.05F, 0.35F);
  scene.light = {light * std::cos(light_angle), light * std::sin(light_angle)};
  scene.brightness = rng.uniform(0.7F, 1.15F);
  scene.cast = {rng.uniform(0.9F, 1.1F), rng.uniform(0.9F, 1.1F), rng.uniform(0.9F, 1.1F)};
  scene.shadow = {-0.35F * scene.light.x, -0.35F * scene.light.y};
  scene.noise = rng.uniform(0.01F, 0.05F);
  return scene;
}

float step_down(float distance, float width) {  // 1 inside, 0 outside, linear over `width`
  return std::clamp(0.5F - distance / width, 0.0F, 1.0F);
}

// A figure with a bevelled rim that catches the light, over `under`.
Colour draw_over(const Figure& figure, Point p, float pixel, Point light, Colour under, float& coverage) {
  coverage = 0.0F;
  if (!figure.near(p, pixel)) return under;
  const Point q = figure.local(p);
  const float d = figure.distance(q);
  coverage = step_down(d, pixel);
  if (coverage == 0.0F) return under;
  constexpr float kRimWidth = 0.07F;
  if (d < -4.0F * kRimWidth) return mix(under, figure.surface.at(q), coverage);
  const float h = 0.5F * pixel;
  const float slope_x = figure.distance(figure.local({p.x + h, p.y})) - d;
  const float slope_y = figure.distance(figure.local({p.x, p.y + h})) - d;
  const float rim = std::exp(std::min(d, 0.0F) / kRimWidth);
  const float shine = 1.0F + 2.2F * rim * (slope_x * light.x + slope_y * light.y) / h;
  return mix(under, scale(figure.surface.at(q), std::clamp(shine, 0.45F, 1.6F)), coverage);
}

Colour ground_at(const Scene& scene, Point p) {
  const float field =
      value_noise({scene.ground_scale * p.x + 5.0F, scene.ground_scale * p.y}, scene.ground_seed);
  const float t = std::clamp(5.0F * (field - 0.5F) + 0.5F + scene.ground_bias, 0.0F, 1.0F);
  const Colour colour = t == 0.0F   ? scene.ground[0].at(p)
                        : t == 1.0F ? scene.ground[1].at(p)
                                    : mix(scene.ground[0].at(p), scene.ground[1].at(p), t);
  const float grain = value_noise({9.0F * p.x, 9.0F * p.y}, scene.ground_seed + 1U);
  return scale(colour, 0.8F + 0.4F * grain);
}

// Colour at p and whether the figure is seen there.
Colour colour_at(const Scene& scene, Point p, float pixel, bool& figure_visible) {
  Colour colour = ground_at(scene, p);
  float coverage = 0.0F;
  for (int i = 0; i < scene.num_fragments; ++i) {
    colour = draw_over(scene.fragments[static_cast<std::size_t>(i)], p, pixel, scene.light, colour, coverage);
  }
  const Figure& figure = scene.figure;
  const Point behind{p.x - scene.shadow.x, p.y - scene.shadow.y};
  if (figure.near(behind, 0.1F)) {
    colour = scale(colour, 1.0F - 0.45F * step_down(figure.distance(figure.local(behind)), 0.2F));
  }
  colour = draw_over(figure, p, pixel, scene.light, colour, coverage);
  figure_visible = coverage > 0.5F;
  if (scene.occluded) {
    const float bar =
        step_down(std::abs(scene.bar_turn(p).x - scene.bar_offset) - scene.bar_half_width, pixel);
    if (bar > 0.0F) colour = mix(colour, scene.bar.at(p), bar);
    if (bar > 0.5F) figure_visible = false;
  }
  const float light = scene.brightness * (1.0F + scene.light.x * p.x + scene.light.y * p.y);
  return {colour.r * light * scene.cast.r, colour.g * light * scene.cast.g, colour.b * light * scene.cast.b};
}

// The sum of a word's four bytes is nearly normal: mean 510, standard deviation 147.8.
float rough_normal(std::uint32_t word) {
  const std::uint32_t sum = (word & 0xffU) + ((word >> 8) & 0xffU) + ((word >> 16) & 0xffU) + (word >> 24);
  return (static_cast<float>(sum) - 510.0F) * (1.0F / 147.8F);
}

std::uint8_t to_byte(float value) {
  return static_cast<std::uint8_t>(std::clamp(value, 0.0F, 1.0F) * 255.0F + 0.5F);
}

void draw_image(const RngAddress& address, const ClassRule& rule, int size, std::uint8_t* image,
                std::uint8_t* mask) {
  Rng rng(address);
  const Scene scene = draw_scene(rng, rule);
  RngAddress noise_address = address;
  noise_address.tag = 1;
  Rng noise(noise_address);
  const float pixel = 2.0F / static_cast<float>(size);
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) {
      const Point p{(static_cast<float>(x) + 0.5F) * pixel - 1.0F,
                    1.0F - (static_cast<float>(y) + 0.5F) * pixel};
      bool visible = false;
      const Colour colour = colour_at(scene, p, pixel, visible);
      *mask++ = visible ? 1 : 0;
      *image++ = to_byte(colour.r + scene.noise * rough_normal(noise.bits()));
      *image++ = to_byte(colour.g + scene.noise * rough_normal(noise.bits()));
      *image++ = to_byte(colour.b + scene.noise * rough_normal(noise.bits()));
    }
  }
}

void check_options(const ShapesOptions& options, std::int64_t count) {
  if (options.image_size < 8 || options.image_size > 1024) {
    throw Error(ErrorKind::kUsage, fmt::format("shapes: image size {} is not in 8..1024", options.image_size),
                "32 is the size of CIFAR");
  }
  if (options.num_classes < 2 || options.num_classes > 100'000) {
    throw Error(ErrorKind::kUsage, fmt::format("shapes: {} classes is not in 2..100000", options.num_classes),
                "up to 20 classes are told by their outline alone");
  }
  if (count < 0 || count > std::int64_t{1} << 31) {
    throw Error(ErrorKind::kUsage, fmt::format("shapes: {} images is not in 0..2^31", count),
                "use a smaller number of images");
  }
}

}  // namespace

std::string shapes_class_name(int label, int num_classes) {
  constexpr std::array<const char*, 6> kHues{"red", "yellow", "green", "cyan", "blue", "magenta"};
  const ClassRule rule = class_rule(label, num_classes);
  std::string name = outline_name(rule.outline);
  if (rule.pattern >= 0) name = fmt::format("{} {}", pattern_name(rule.pattern), name);
  if (rule.hue < 0) return name;
  if (rule.num_hues <= 2) return fmt::format("{} {}", rule.hue == 0 ? "warm" : "cold", name);
  if (rule.num_hues == 6) return fmt::format("{} {}", kHues[static_cast<std::size_t>(rule.hue)], name);
  return fmt::format("hue {} {}", rule.hue * 360 / rule.num_hues, name);
}

ImageSet make_shapes(CpuStream stream, const ShapesOptions& options, Part part, std::int64_t count) {
  check_options(options, count);
  ImageSet set{.name = "shapes",
               .height = options.image_size,
               .width = options.image_size,
               .channels = 3,
               .num_classes = options.num_classes};
  const std::int64_t plane = std::int64_t{options.image_size} * options.image_size;
  set.images.resize(static_cast<std::size_t>(count * plane * 3));
  set.masks.resize(static_cast<std::size_t>(count * plane));
  set.labels.resize(static_cast<std::size_t>(count));
  parallel_for(stream, count, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const int label = static_cast<int>(i % options.num_classes);
      set.labels[static_cast<std::size_t>(i)] = label;
      const RngAddress address{.seed = options.seed,
                               .purpose = RngPurpose::kDataset,
                               .member = static_cast<std::uint32_t>(part),
                               .sample = static_cast<std::uint32_t>(i)};
      draw_image(address, class_rule(label, options.num_classes), options.image_size,
                 set.images.data() + i * plane * 3, set.masks.data() + i * plane);
    }
  });
  for (int c = 0; c < options.num_classes; ++c)
    set.class_names.push_back(shapes_class_name(c, options.num_classes));
  set.normalisation = measure_normalisation(set);
  return set;
}

Dataset make_shapes(CpuStream stream, const ShapesOptions& options) {
  for (const std::int64_t count : {options.train_size, options.test_size}) {
    check_options(options, count);
    if (count == 0) {
      throw Error(ErrorKind::kUsage, "shapes: a part without images",
                  "training and test part need one image or more");
    }
  }
  Dataset dataset{make_shapes(stream, options, Part::kTrain, options.train_size),
                  make_shapes(stream, options, Part::kTest, options.test_size)};
  dataset.train.check_usable();
  dataset.test.check_usable();
  dataset.test.normalisation = dataset.train.normalisation;
  return dataset;
}

}  // namespace cohort::data
