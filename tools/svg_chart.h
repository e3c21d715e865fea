// Charts of lines and boxes as SVG, inline in a page or as a file of their own: no script, no external
// resource. In a page the colours come from its CSS (chart_colors, classes s0 .. s7).
#pragma once

#include <optional>
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

// A filled rectangle below the lines, in the chart's coordinates.
struct ChartBox {
  double x0, x1, y0, y1;
  int color = 0;
  bool faint = false;
  std::string hover{};
};

// Centred above a point.
struct ChartText {
  double x, y;
  std::string text;
};

struct ChartRange {
  double low, high;
};

struct ChartOptions {
  std::string title;
  std::string x_label;
  std::string y_label;
  int width = 640;
  int height = 320;
  std::string caption{};          // a line below the chart
  std::optional<ChartRange> x{};  // instead of the values' own
  std::optional<ChartRange> y{};
  bool whole_x = true;  // ticks at integers only
  std::vector<ChartBox> boxes{};
  std::vector<ChartText> texts{};
};

struct Chart {
  ChartOptions options;
  std::vector<ChartSeries> series;  // one without points is an entry of the legend, for boxes
};

// Long series are thinned to what the width can show (mean per bucket).
std::string svg_chart(const ChartOptions& options, const std::vector<ChartSeries>& series);
// A file with the charts one below the other, two beside each other from four on.
std::string svg_document(const std::string& title, const std::vector<Chart>& charts);

// CSS variables --s0 .. --s7: Okabe and Ito's palette, told apart by colour-blind readers, for either theme.
std::string chart_colors(bool dark);

// Round numbers inside [low, high], at most `most`: steps of 1, 2 or 5 times a power of ten; `whole`:
// integers only.
std::vector<double> axis_ticks(double low, double high, int most, bool whole = false);

std::string escape_html(std::string_view text);

}  // namespace cohort::tools
