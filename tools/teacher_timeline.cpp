#include "tools/teacher_timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace cohort::tools {
namespace {

using Network = TeacherTimeline::Network;
using Window = TeacherTimeline::Window;

constexpr std::int64_t kMostWindows = 200;  // by epoch: three points of a chart's width each

std::int64_t whole_in(const Json& record, const char* key) {
  const double value = number_in(record, key);
  return std::isfinite(value) && value >= 1 && value < 1e15 ? static_cast<std::int64_t>(value) : 0;
}

std::int64_t last_in(const RunRecords& run, const char* key) {
  std::int64_t last = 0;
  for (const Json& record : run.steps) last = std::max(last, whole_in(record, key));
  return last;
}

double percent(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 0 : 100 * static_cast<double>(part) / static_cast<double>(whole);
}

std::string name_of(const TeacherTimeline& timeline, const Window& window) {
  const char* const unit = timeline.by_step ? "step" : "epoch";
  return window.first == window.last ? fmt::format("{} {}", unit, window.first)
                                     : fmt::format("{}s {} to {}", unit, window.first, window.last);
}

struct Part {
  std::int64_t steps;
  int color;
  bool faint;
  std::string what;
};

// One column of a window: its parts on top of each other.
void add_column(Chart& chart, const TeacherTimeline& timeline, const Window& window, std::int64_t whole,
                const std::vector<Part>& parts) {
  double low = 0;
  for (const Part& part : parts) {
    if (part.steps == 0) continue;
    const double high = low + percent(part.steps, whole);
    chart.options.boxes.push_back({static_cast<double>(window.first) - 0.5,
                                   static_cast<double>(window.last) + 0.5, low, high, part.color, part.faint,
                                   fmt::format("{}: {} {} of {} steps, {:.2f} %", name_of(timeline, window),
                                               part.what, part.steps, whole, percent(part.steps, whole))});
    low = high;
  }
}

Chart empty_chart(const TeacherTimeline& timeline, std::string title) {
  Chart chart;
  chart.options = {.title = std::move(title),
                   .x_label = timeline.by_step ? "step" : "epoch",
                   .y_label = "% of the steps",
                   .y = ChartRange{0, 100}};
  return chart;
}

Chart chart_of_teachers(const TeacherTimeline& timeline) {
  Chart chart = empty_chart(timeline, "Who teaches");
  std::vector<std::int64_t> taught(timeline.ids.size());
  std::int64_t steps = 0;
  for (const Window& window : timeline.windows) {
    std::vector<Part> parts;
    for (std::size_t k = 0; k < timeline.ids.size(); ++k) {
      parts.push_back({window.networks[k].taught, static_cast<int>(k), false, timeline.ids[k] + " taught"});
      taught[k] += window.networks[k].taught;
    }
    steps += window.steps;
    add_column(chart, timeline, window, window.steps, parts);
  }
  chart.options.caption = fmt::format("{} steps:", steps);
  for (std::size_t k = 0; k < timeline.ids.size(); ++k) {
    chart.series.push_back({timeline.ids[k], {}, static_cast<int>(k), false});
    chart.options.caption += fmt::format(" {} taught {:.2f} %{}", timeline.ids[k], percent(taught[k], steps),
                                         k + 1 < timeline.ids.size() ? "," : "");
  }
  return chart;
}

Chart chart_of_modes(const TeacherTimeline& timeline, std::size_t k) {
  constexpr int kExpertColor = 1;
  constexpr int kLearningColor = 0;
  const std::string& id = timeline.ids[k];
  Chart chart = empty_chart(timeline, fmt::format("Modes of the teacher {}", id));
  std::int64_t expert = 0, learning = 0;
  for (const Window& window : timeline.windows) {
    const Network& network = window.networks[k];
    expert += network.expert;
    learning += network.learning;
    add_column(chart, timeline, window, network.expert + network.learning,
               {{network.expert, kExpertColor, false, id + " expert (paused)"},
                {network.learning, kLearningColor, true, id + " learning"}});
  }
  chart.series = {{"expert (paused)", {}, kExpertColor, false}, {"learning", {}, kLearningColor, false}};
  chart.options.caption =
      fmt::format("{} steps: expert {:.2f} %, learning {:.2f} %", expert + learning,
                  percent(expert, expert + learning), percent(learning, expert + learning));
  return chart;
}

}  // namespace

bool TeacherTimeline::has_teacher() const {
  return std::any_of(windows.begin(), windows.end(), [](const Window& window) { return window.steps > 0; });
}

bool TeacherTimeline::has_modes(std::size_t network) const {
  return std::any_of(windows.begin(), windows.end(), [&](const Window& window) {
    return window.networks[network].expert + window.networks[network].learning > 0;
  });
}

bool TeacherTimeline::empty() const {
  if (has_teacher()) return false;
  for (std::size_t k = 0; k < ids.size(); ++k) {
    if (has_modes(k)) return false;
  }
  return true;
}

TeacherTimeline teacher_timeline(const RunRecords& run, std::int64_t window) {
  TeacherTimeline timeline;
  timeline.ids = run.network_ids();
  timeline.by_step = window > 0;
  const char* const key = timeline.by_step ? "step" : "epoch";
  const std::int64_t last = last_in(run, key);
  const std::int64_t width = timeline.by_step ? window : (last + kMostWindows - 1) / kMostWindows;
  if (last == 0 || width == 0) return timeline;
  std::int64_t counted = 0;  // the last step whose teacher was counted: every network's record names it
  for (const Json& record : run.steps) {
    const auto net = std::find(timeline.ids.begin(), timeline.ids.end(), text_in(record, "net"));
    const std::int64_t at = whole_in(record, key);
    if (net == timeline.ids.end() || at == 0) continue;
    const std::int64_t first = (at - 1) / width * width + 1;
    if (timeline.windows.empty() || timeline.windows.back().first != first) {
      timeline.windows.push_back({first, std::min(first + width - 1, last), 0, {}});
      timeline.windows.back().networks.resize(timeline.ids.size());
    }
    Window& current = timeline.windows.back();
    const std::string mode = text_in(record, "mode");
    Network& own = current.networks[static_cast<std::size_t>(net - timeline.ids.begin())];
    own.expert += mode == "expert" ? 1 : 0;
    own.learning += mode == "learning" ? 1 : 0;
    const auto teacher = std::find(timeline.ids.begin(), timeline.ids.end(), text_in(record, "teacher"));
    const std::int64_t step = whole_in(record, "step");
    if (teacher == timeline.ids.end() || step == counted) continue;
    counted = step;
    ++current.steps;
    ++current.networks[static_cast<std::size_t>(teacher - timeline.ids.begin())].taught;
  }
  return timeline;
}

std::vector<Chart> teacher_charts(const TeacherTimeline& timeline) {
  std::vector<Chart> charts;
  if (timeline.has_teacher()) charts.push_back(chart_of_teachers(timeline));
  for (std::size_t k = 0; k < timeline.ids.size(); ++k) {
    if (timeline.has_modes(k)) charts.push_back(chart_of_modes(timeline, k));
  }
  return charts;
}

Json timeline_json(const TeacherTimeline& timeline) {
  Json list = Json::array();
  for (const Window& window : timeline.windows) {
    Json row = {{"first", window.first}, {"last", window.last}};
    if (timeline.has_teacher()) row["steps"] = window.steps;
    row["nets"] = Json::array();
    for (std::size_t k = 0; k < timeline.ids.size(); ++k) {
      Json net = {{"id", timeline.ids[k]}};
      if (timeline.has_teacher()) net["taught"] = window.networks[k].taught;
      if (timeline.has_modes(k)) {
        net["expert"] = window.networks[k].expert;
        net["learning"] = window.networks[k].learning;
      }
      row["nets"].push_back(std::move(net));
    }
    list.push_back(std::move(row));
  }
  return {{"unit", timeline.by_step ? "step" : "epoch"}, {"windows", list}};
}

}  // namespace cohort::tools
