#include "tools/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tools/text.h"

namespace cohort::tools {
namespace {

constexpr int kColors = 8;
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
  for (const double tick : axis_ticks(frame.x.low, frame.x.high, 8, true)) {
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

std::string svg_chart(const ChartOptions& options, const std::vector<ChartSeries>& series) {
  Frame frame{{}, {}, options.width, options.height};
  for (const ChartSeries& s : series) {
    for (const ChartSeries::Point& point : s.points) {
      if (!std::isfinite(point.y)) continue;
      frame.x.add(point.x);
      frame.y.add(point.y);
    }
  }
  const std::string head =
      fmt::format("<svg class=\"chart\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">", options.width,
                  options.height, escape_html(options.title));
  if (frame.x.empty()) {
    return fmt::format(
        "<figure>{}<text class=\"title\" x=\"{}\" y=\"18\">{}</text><text class=\"tick\" x=\"{}\" "
        "y=\"{}\" text-anchor=\"middle\">no values yet</text></svg></figure>\n",
        head, kLeft, escape_html(options.title), options.width / 2, options.height / 2);
  }
  frame.x.widen();
  frame.y.widen();
  std::string out = "<figure>" + head + axes(frame, options);
  for (const ChartSeries& s : series) out += line(frame, s, options);
  return out + "</svg>" + legend(series) + "</figure>\n";
}

}  // namespace cohort::tools
