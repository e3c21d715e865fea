// The vocabulary of the generated data set: outlines as signed distances, and surface patterns.
#pragma once

#include <cstdint>

namespace cohort::data {

struct Point {
  float x = 0.0F, y = 0.0F;
};

// Outlines, centred, inside of the unit circle. x to the right, y up.
inline constexpr int kNumOutlines = 20;
const char* outline_name(int outline);

// Distance from p to the outline, negative inside. Exact or a close lower bound.
float outline_distance(int outline, Point p);

// Patterns with smooth transitions between 0 and 1.
inline constexpr int kNumPatterns = 8;
const char* pattern_name(int pattern);  // an adjective: "striped"
float pattern_value(int pattern, Point p, std::uint32_t seed);

// Smooth noise in [0, 1] with features of unit size.
float value_noise(Point p, std::uint32_t seed);

}  // namespace cohort::data
