// Line charts as inline SVG: no script, no external resource; colours come from the page's CSS (classes s0 ..
// s7).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cohort::tools {

struct ChartSeries {
  struct Point {
    double x;  // an integer: an epoch, a step
    double y;
  };
  std::string name;
  std::vector<Point> points;  // ascending x; a y that is not finite breaks the line
  int color = 0;
  bool dashed = false;
};

struct ChartOptions {
  std::string title;
  std::string x_label;
  std::string y_label;
  int width = 640;
  int height = 320;
};

// Long series are thinned to what the width can show (mean per bucket).
std::string svg_chart(const ChartOptions& options, const std::vector<ChartSeries>& series);

// Round numbers inside [low, high], at most `most`: steps of 1, 2 or 5 times a power of ten; `whole`:
// integers only.
std::vector<double> axis_ticks(double low, double high, int most, bool whole = false);

std::string escape_html(std::string_view text);

}  // namespace cohort::tools
