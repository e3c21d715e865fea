#include "data/shape_kinds.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <vector>

#include "kernels/base/error.h"

namespace cohort::data {
namespace {

constexpr float kPi = 3.14159265F;

float length(float x, float y) {
  return std::sqrt(x * x + y * y);
}

float length(Point p) {
  return length(p.x, p.y);
}

// Inigo Quilez, "2D distance functions": exact distance to a polygon by edges, sign by winding.
float polygon(Point p, std::span<const Point> corners) {
  float squared = 1e9F;
  float sign = 1.0F;
  Point previous = corners.back();
  for (const Point corner : corners) {
    const Point e{previous.x - corner.x, previous.y - corner.y};
    const Point w{p.x - corner.x, p.y - corner.y};
    const float t = std::clamp((w.x * e.x + w.y * e.y) / (e.x * e.x + e.y * e.y), 0.0F, 1.0F);
    const float dx = w.x - e.x * t;
    const float dy = w.y - e.y * t;
    squared = std::min(squared, dx * dx + dy * dy);
    const bool above = p.y >= corner.y;
    const bool below = p.y < previous.y;
    const bool left = e.x * w.y > e.y * w.x;
    if ((above && below && left) || (!above && !below && !left)) sign = -sign;
    previous = corner;
  }
  return sign * std::sqrt(squared);
}

// Corners on circles of alternating radius, the first at the top.
std::vector<Point> radial(int count, float outer, float inner) {
  std::vector<Point> corners;
  for (int i = 0; i < count; ++i) {
    const float angle = kPi * (0.5F + 2.0F * static_cast<float>(i) / static_cast<float>(count));
    const float radius = i % 2 == 0 ? outer : inner;
    corners.push_back({radius * std::cos(angle), radius * std::sin(angle)});
  }
  return corners;
}

struct Polygons {
  std::vector<Point> square{{-0.7F, -0.7F}, {0.7F, -0.7F}, {0.7F, 0.7F}, {-0.7F, 0.7F}};
  std::vector<Point> triangle = radial(3, 1.0F, 1.0F);
  std::vector<Point> pentagon = radial(5, 0.92F, 0.92F);
  std::vector<Point> hexagon = radial(6, 0.9F, 0.9F);
  std::vector<Point> star = radial(10, 1.0F, 0.44F);
  std::vector<Point> kite{{0.0F, -1.0F}, {0.52F, 0.0F}, {0.0F, 1.0F}, {-0.52F, 0.0F}};
  std::vector<Point> cross{{-0.28F, -0.95F}, {0.28F, -0.95F}, {0.28F, -0.28F},  {0.95F, -0.28F},
                           {0.95F, 0.28F},   {0.28F, 0.28F},  {0.28F, 0.95F},   {-0.28F, 0.95F},
                           {-0.28F, 0.28F},  {-0.95F, 0.28F}, {-0.95F, -0.28F}, {-0.28F, -0.28F}};
  std::vector<Point> arrow{{0.0F, 1.0F},     {0.8F, 0.1F},   {0.32F, 0.1F}, {0.32F, -0.92F},
                           {-0.32F, -0.92F}, {-0.32F, 0.1F}, {-0.8F, 0.1F}};
  std::vector<Point> bolt{{0.2F, 1.0F},   {-0.62F, -0.12F}, {-0.08F, -0.12F},
                          {-0.3F, -1.0F}, {0.62F, 0.22F},   {0.1F, 0.22F}};
  std::vector<Point> tee{{-0.8F, 0.85F}, {0.8F, 0.85F},   {0.8F, 0.35F},   {0.27F, 0.35F},
                         {0.27F, -0.9F}, {-0.27F, -0.9F}, {-0.27F, 0.35F}, {-0.8F, 0.35F}};
  std::vector<Point> ell{{-0.65F, 0.9F},  {-0.12F, 0.9F},  {-0.12F, -0.35F},
                         {0.75F, -0.35F}, {0.75F, -0.85F}, {-0.65F, -0.85F}};
};

float heart(Point p) {
  p = {std::abs(p.x) * 0.62F, p.y * 0.62F + 0.55F};
  const float d1 = length(p.x - 0.25F, p.y - 0.75F) - 0.35355339F;
  if (p.x + p.y > 1.0F) return d1 / 0.62F;
  const float m = 0.5F * std::max(p.x + p.y, 0.0F);
  const float d2 = std::min(length(p.x, p.y - 1.0F), length(p.x - m, p.y - m));
  return (p.x > p.y ? d2 : -d2) / 0.62F;
}

float drop(Point p) {
  constexpr float kRadius = 0.58F, kTip = 0.03F, kHeight = 1.15F;
  constexpr float kSine = (kRadius - kTip) / kHeight;
  const float cosine = std::sqrt(1.0F - kSine * kSine);
  p = {std::abs(p.x), p.y + 0.32F};
  const float k = p.y * cosine - p.x * kSine;
  if (k < 0.0F) return length(p) - kRadius;
  if (k > cosine * kHeight) return length(p.x, p.y - kHeight) - kTip;
  return p.x * cosine + p.y * kSine - kRadius;
}

float pie(Point p) {  // a disc without a wedge of 94 degrees
  constexpr float kRadius = 0.9F;
  const float sine = std::sin(2.32F);
  const float cosine = std::cos(2.32F);
  p = {std::abs(p.y), p.x};  // the mouth opens to the left
  const float l = length(p) - kRadius;
  const float t = std::clamp(p.x * sine + p.y * cosine, 0.0F, kRadius);
  const float m = length(p.x - sine * t, p.y - cosine * t);
  return std::max(l, cosine * p.x - sine * p.y > 0.0F ? m : -m);
}

float box(Point p, float half_x, float half_y) {
  const float x = std::abs(p.x) - half_x;
  const float y = std::abs(p.y) - half_y;
  return length(std::max(x, 0.0F), std::max(y, 0.0F)) + std::min(std::max(x, y), 0.0F);
}

float clover(Point p) {
  p = {std::abs(p.x), std::abs(p.y)};
  const float lobes = std::min(length(p.x - 0.5F, p.y), length(p.x, p.y - 0.5F)) - 0.42F;
  return std::min(lobes, length(p) - 0.3F);
}

std::uint32_t hash(std::int32_t x, std::int32_t y, std::uint32_t seed) {
  std::uint32_t h =
      static_cast<std::uint32_t>(x) * 0x8da6b343U ^ static_cast<std::uint32_t>(y) * 0xd8163841U ^ seed;
  h = (h ^ (h >> 16)) * 0x7feb352dU;
  h = (h ^ (h >> 15)) * 0x846ca68bU;
  return h ^ (h >> 16);
}

// Steepens a wave in [-1, 1] into soft stripes in [0, 1].
float soft(float wave) {
  return std::clamp(0.5F + 1.4F * wave, 0.0F, 1.0F);
}

}  // namespace

const char* outline_name(int outline) {
  constexpr std::array<const char*, kNumOutlines> kNames{
      "disc",  "square", "triangle", "star", "cross", "ring", "crescent", "heart", "arrow",    "drop",
      "frame", "clover", "bolt",     "pie",  "tee",   "bowl", "ell",      "kite",  "pentagon", "hexagon"};
  return kNames.at(static_cast<std::size_t>(outline));
}

float outline_distance(int outline, Point p) {
  static const Polygons polygons;
  switch (outline) {
    case 0:
      return length(p) - 0.82F;
    case 1:
      return polygon(p, polygons.square);
    case 2:
      return polygon({p.x, p.y + 0.15F}, polygons.triangle);
    case 3:
      return polygon(p, polygons.star);
    case 4:
      return polygon(p, polygons.cross);
    case 5:
      return std::abs(length(p) - 0.68F) - 0.24F;
    case 6:
      return std::max(length(p.x + 0.12F, p.y) - 0.88F, 0.72F - length(p.x - 0.38F, p.y));
    case 7:
      return heart(p);
    case 8:
      return polygon(p, polygons.arrow);
    case 9:
      return drop(p);
    case 10:
      return std::abs(box(p, 0.56F, 0.56F)) - 0.19F;
    case 11:
      return clover(p);
    case 12:
      return polygon(p, polygons.bolt);
    case 13:
      return pie(p);
    case 14:
      return polygon(p, polygons.tee);
    case 15:
      return std::max(length(p.x, p.y - 0.4F) - 0.95F, p.y - 0.4F);  // half a disc
    case 16:
      return polygon(p, polygons.ell);
    case 17:
      return polygon(p, polygons.kite);
    case 18:
      return polygon(p, polygons.pentagon);
    case 19:
      return polygon(p, polygons.hexagon);
    default:
      internal_error("outline_distance: no such outline");
  }
}

const char* pattern_name(int pattern) {
  constexpr std::array<const char*, kNumPatterns> kNames{"plain",  "striped", "checked", "dotted",
                                                         "ringed", "wavy",    "grid",    "mottled"};
  return kNames.at(static_cast<std::size_t>(pattern));
}

float pattern_value(int pattern, Point p, std::uint32_t seed) {
  switch (pattern) {
    case 0:
      return std::clamp(0.5F + 0.35F * p.y, 0.0F, 1.0F);
    case 1:
      return soft(std::sin(2.0F * kPi * p.x));
    case 2:
      return soft(1.6F * std::sin(kPi * p.x) * std::sin(kPi * p.y));
    case 3: {
      const float x = p.x - std::floor(p.x) - 0.5F;
      const float y = p.y - std::floor(p.y) - 0.5F;
      return std::clamp((0.36F - length(x, y)) * 5.0F, 0.0F, 1.0F);
    }
    case 4:
      return soft(std::sin(2.0F * kPi * length(p)));
    case 5:
      return soft(std::sin(2.0F * kPi * (p.y + 0.28F * std::sin(kPi * p.x))));
    case 6: {
      const float x = std::abs(p.x - std::floor(p.x) - 0.5F);
      const float y = std::abs(p.y - std::floor(p.y) - 0.5F);
      return std::clamp((std::max(x, y) - 0.3F) * 7.0F, 0.0F, 1.0F);
    }
    case 7:
      return std::clamp(2.2F * value_noise({1.3F * p.x, 1.3F * p.y}, seed) - 0.6F, 0.0F, 1.0F);
    default:
      internal_error("pattern_value: no such pattern");
  }
}

float value_noise(Point p, std::uint32_t seed) {
  const float fx = std::floor(p.x);
  const float fy = std::floor(p.y);
  const auto ix = static_cast<std::int32_t>(fx);
  const auto iy = static_cast<std::int32_t>(fy);
  float x = p.x - fx;
  float y = p.y - fy;
  x = x * x * (3.0F - 2.0F * x);
  y = y * y * (3.0F - 2.0F * y);
  auto corner = [&](int dx, int dy) {
    return static_cast<float>(hash(ix + dx, iy + dy, seed) >> 8) * 0x1p-24F;
  };
  const float top = corner(0, 0) + x * (corner(1, 0) - corner(0, 0));
  const float bottom = corner(0, 1) + x * (corner(1, 1) - corner(0, 1));
  return top + y * (bottom - top);
}

}  // namespace cohort::data
