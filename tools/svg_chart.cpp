#include "tools/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tools/text.h"

namespace cohort::tools {
namespace {

constexpr int kColors = 8;
constexpr const char* kLight[kColors] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                         "#b8860b", "#56b4e9", "#7a5195", "#4d4d4d"};
constexpr const char* kDark[kColors] = {"#56b4e9", "#ff8c42", "#2ec4a0", "#e39ac6",
                                        "#e3b341", "#9ad4ff", "#b799d6", "#b0b0b0"};
constexpr int kLeft = 58;
constexpr int kRight = 16;
constexpr int kTop = 34;
constexpr int kBottom = 44;
constexpr std::size_t kMaxPoints = 400;

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
  void widen() {
    if (high - low < 1e-12 * std::max(1.0, std::abs(low))) {
      const double by = std::max(0.5, 0.05 * std::abs(low));
      low -= by;
      high += by;
    }
  }
};

std::vector<ChartSeries::Point> thin(const std::vector<ChartSeries::Point>& points) {
  if (points.size() <= kMaxPoints) return points;
  std::vector<ChartSeries::Point> out;
  for (std::size_t bucket = 0; bucket < kMaxPoints; ++bucket) {
    const std::size_t begin = bucket * points.size() / kMaxPoints;
    const std::size_t end = (bucket + 1) * points.size() / kMaxPoints;
    double x = 0;
    double y = 0;
    for (std::size_t i = begin; i < end; ++i) {
      x += points[i].x;
      y += points[i].y;  // not finite stays not finite: a gap
    }
    const auto count = static_cast<double>(end - begin);
    out.push_back({x / count, y / count});
  }
  return out;
}

struct Frame {
  Range x;
  Range y;
  int width;
  int height;

  double px(double value) const {
    return kLeft + (value - x.low) / (x.high - x.low) * (width - kLeft - kRight);
  }
  double py(double value) const {
    return height - kBottom - (value - y.low) / (y.high - y.low) * (height - kTop - kBottom);
  }
};

std::string tick_label(double value) {
  if (std::abs(value) >= 1e6 || (value != 0 && std::abs(value) < 1e-3)) return fmt::format("{:.0e}", value);
  return fmt::format("{:.6g}", value);
}

std::string axes(const Frame& frame, const ChartOptions& options) {
  std::string out;
  for (const double tick : axis_ticks(frame.y.low, frame.y.high, 6)) {
    const double y = frame.py(tick);
    out += fmt::format("<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>", kLeft,
                       frame.width - kRight, y, y);
    out += fmt::format("<text class=\"tick\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>", kLeft - 6,
                       y + 4, tick_label(tick));
  }
  for (const double tick : axis_ticks(frame.x.low, frame.x.high, 8, options.whole_x)) {
    out += fmt::format("<text class=\"tick\" x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                       frame.px(tick), frame.height - kBottom + 17, tick_label(tick));
  }
  out += fmt::format("<line class=\"axis\" x1=\"{0}\" x2=\"{1}\" y1=\"{2}\" y2=\"{2}\"/>", kLeft,
                     frame.width - kRight, frame.height - kBottom);
  out += fmt::format("<text class=\"title\" x=\"{}\" y=\"18\">{}</text>", kLeft, escape_html(options.title));
  out += fmt::format("<text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
                     frame.width - kRight, frame.height - 8, escape_html(options.x_label));
  out += fmt::format("<text class=\"tick\" x=\"{}\" y=\"18\" text-anchor=\"end\">{}</text>",
                     frame.width - kRight, escape_html(options.y_label));
  return out;
}

std::string line(const Frame& frame, const ChartSeries& series, const ChartOptions& options) {
  std::string path;
  std::string dots;
  bool pen_down = false;
  const std::vector<ChartSeries::Point> points = thin(series.points);
  for (const ChartSeries::Point& point : points) {
    if (!std::isfinite(point.x) || !std::isfinite(point.y)) {
      pen_down = false;
      continue;
    }
    path += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", frame.px(point.x), frame.py(point.y));
    pen_down = true;
    // The hover text; a visible dot only where there are few.
    dots += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"><title>{}: {} {:.6g}, {:.6g}</title></circle>",
        frame.px(point.x), frame.py(point.y), points.size() <= 60 ? "2.5" : "1.2", escape_html(series.name),
        escape_html(options.x_label), point.x, point.y);
  }
  return fmt::format("<g class=\"s{}\"><path{} d=\"{}\"/>{}</g>", series.color % kColors,
                     series.dashed ? " stroke-dasharray=\"5 4\"" : "", path, dots);
}

std::string boxes(const Frame& frame, const ChartOptions& options) {
  std::string out;
  for (const ChartBox& box : options.boxes) {
    out += fmt::format(
        "<g class=\"s{}\"><rect{} x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\"><title>{}"
        "</title></rect></g>",
        box.color % kColors, box.faint ? " fill-opacity=\"0.4\"" : "", frame.px(box.x0), frame.py(box.y1),
        frame.px(box.x1) - frame.px(box.x0), frame.py(box.y0) - frame.py(box.y1), escape_html(box.hover));
  }
  return out;
}

std::string texts(const Frame& frame, const ChartOptions& options) {
  std::string out;
  for (const ChartText& text : options.texts) {
    out += fmt::format("<text class=\"mark\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>",
                       frame.px(text.x), frame.py(text.y) - 4, escape_html(text.text));
  }
  return out;
}

std::string legend(const std::vector<ChartSeries>& series) {
  std::string out = "<div class=\"legend\">";
  for (const ChartSeries& s : series) {
    out += fmt::format(
        "<span class=\"s{}\"><svg width=\"22\" height=\"8\"><path{} d=\"M1 4L21 4\"/></svg>{}</span>",
        s.color % kColors, s.dashed ? " stroke-dasharray=\"5 4\"" : "", escape_html(s.name));
  }
  return out + "</div>";
}

}  // namespace

std::vector<double> axis_ticks(double low, double high, int most, bool whole) {
  std::vector<double> ticks;
  if (!std::isfinite(low) || !std::isfinite(high) || !(high > low) || most < 1) return ticks;
  const double raw = (high - low) / most;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double factor : {5.0, 2.0, 1.0}) {
    if (factor * power >= raw) step = factor * power;
  }
  if (whole) step = std::max(step, 1.0);
  for (double index = std::ceil(low / step); index * step <= high * (1 + 1e-12) + 1e-300; index += 1) {
    ticks.push_back(index * step);
    if (static_cast<int>(ticks.size()) > most) break;
  }
  return ticks;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t' ? ' ' : c;
    }
  }
  return out;
}

namespace {

// What is inside of <svg>; empty: there is nothing to draw.
std::string drawing(const ChartOptions& options, const std::vector<ChartSeries>& series) {
  Frame frame{{}, {}, options.width, options.height};
  for (const ChartSeries& s : series) {
    for (const ChartSeries::Point& point : s.points) {
      if (!std::isfinite(point.y)) continue;
      frame.x.add(point.x);
      frame.y.add(point.y);
    }
  }
  if (frame.x.empty() && options.boxes.empty()) return {};
  for (const ChartBox& box : options.boxes) {
    for (const double x : {box.x0, box.x1}) frame.x.add(x);
    for (const double y : {box.y0, box.y1}) frame.y.add(y);
  }
  if (options.x) frame.x = {options.x->low, options.x->high};
  if (options.y) frame.y = {options.y->low, options.y->high};
  frame.x.widen();
  frame.y.widen();
  std::string out = axes(frame, options) + boxes(frame, options);
  for (const ChartSeries& s : series) {
    if (!s.points.empty()) out += line(frame, s, options);
  }
  return out + texts(frame, options);
}

std::string nothing_yet(const ChartOptions& options) {
  return fmt::format(
      "<text class=\"title\" x=\"{}\" y=\"18\">{}</text><text class=\"tick\" x=\"{}\" y=\"{}\" "
      "text-anchor=\"middle\">no values yet</text>",
      kLeft, escape_html(options.title), options.width / 2, options.height / 2);
}

// The legend and the caption of a chart in a file of its own, where no HTML flows.
constexpr int kLegendHeight = 24;
constexpr int kCaptionHeight = 22;

std::string svg_legend(const Chart& chart) {
  std::string out;
  int x = kLeft;
  const int y = chart.options.height + 14;
  for (const ChartSeries& s : chart.series) {
    out += fmt::format("<g class=\"s{}\"><path{} d=\"M{} {}h22\"/></g><text x=\"{}\" y=\"{}\">{}</text>",
                       s.color % kColors, s.dashed ? " stroke-dasharray=\"5 4\"" : "", x, y - 4, x + 28, y,
                       escape_html(s.name));
    x += 48 + 7 * static_cast<int>(s.name.size());
  }
  return out + fmt::format("<text class=\"caption\" x=\"{}\" y=\"{}\">{}</text>", kLeft, y + kCaptionHeight,
                           escape_html(chart.options.caption));
}

}  // namespace

std::string chart_colors(bool dark) {
  std::string out;
  for (int i = 0; i < kColors; ++i) out += fmt::format("--s{}:{};", i, dark ? kDark[i] : kLight[i]);
  return out;
}

std::string svg_chart(const ChartOptions& options, const std::vector<ChartSeries>& series) {
  const std::string inside = drawing(options, series);
  std::string out = fmt::format(
      "<figure><svg class=\"chart\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">{}</svg>",
      options.width, options.height, escape_html(options.title),
      inside.empty() ? nothing_yet(options) : inside);
  if (!inside.empty()) out += legend(series);
  if (!options.caption.empty())
    out += fmt::format("<figcaption>{}</figcaption>", escape_html(options.caption));
  return out + "</figure>\n";
}

std::string svg_document(const std::string& title, const std::vector<Chart>& charts) {
  constexpr int kTitleHeight = 40;
  constexpr int kGap = 16;
  const int columns = charts.size() >= 4 ? 2 : 1;
  int width = 0;
  int height = 0;  // of a cell
  for (const Chart& chart : charts) {
    width = std::max(width, chart.options.width);
    height = std::max(height, chart.options.height + kLegendHeight + kCaptionHeight);
  }
  const int rows = (static_cast<int>(charts.size()) + columns - 1) / columns;
  // Literal colours: few viewers of files know CSS variables.
  std::string style =
      "text{font:11.5px sans-serif;fill:#555}.title{font-size:13.5px;font-weight:600;fill:#1d2127}"
      ".head{font-size:17px;font-weight:bold;fill:#1d2127}.mark{font-size:9px}"
      "path{fill:none;stroke-width:1.8}.grid{stroke:#e3e5e8}.axis{stroke:#69727d}";
  for (int i = 0; i < kColors; ++i)
    style += fmt::format(".s{0} path{{stroke:{1}}}.s{0} circle,.s{0} rect{{fill:{1}}}", i, kLight[i]);
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\">\n"
      "<title>{2}</title>\n<style>{3}</style>\n<rect width=\"{0}\" height=\"{1}\" fill=\"#fff\"/>\n"
      "<text class=\"head\" x=\"{4}\" y=\"27\">{2}</text>\n",
      columns * width + (columns + 1) * kGap, kTitleHeight + rows * (height + kGap), escape_html(title),
      style, kGap);
  for (std::size_t i = 0; i < charts.size(); ++i) {
    const std::string inside = drawing(charts[i].options, charts[i].series);
    out += fmt::format("<g transform=\"translate({} {})\">{}{}</g>\n",
                       kGap + static_cast<int>(i) % columns * (width + kGap),
                       kTitleHeight + static_cast<int>(i) / columns * (height + kGap),
                       inside.empty() ? nothing_yet(charts[i].options) : inside, svg_legend(charts[i]));
  }
  return out + "</svg>\n";
}

}  // namespace cohort::tools
