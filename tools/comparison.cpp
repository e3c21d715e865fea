#include "tools/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "tools/progress.h"

namespace cohort::tools {
namespace {

// Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; the normal one beyond.
constexpr std::array<double, 30> kStudent = {
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120,  2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042};
constexpr double kNormal = 1.960;
constexpr const char* kBaseline = "independent";

std::vector<double> tops(const std::vector<ComparisonRow::Value>& values) {
  std::vector<double> result;
  for (const ComparisonRow::Value& value : values) result.push_back(value.top1);
  return result;
}

const ComparisonRow* baseline_of(const std::vector<ComparisonRow>& rows, const ComparisonRow& row) {
  if (row.method == kBaseline) return nullptr;
  const auto it = std::find_if(rows.begin(), rows.end(), [&](const ComparisonRow& other) {
    return other.method == kBaseline && other.pair == row.pair && other.net == row.net &&
           other.model == row.model;
  });
  return it == rows.end() ? nullptr : &*it;
}

using Values = std::vector<ComparisonRow::Value>;

std::vector<double> paired_differences(const Values& values, const Values& baseline) {
  std::vector<double> result;
  for (const ComparisonRow::Value& value : values) {
    for (const ComparisonRow::Value& other : baseline) {
      if (other.seed == value.seed) {
        result.push_back(value.top1 - other.top1);
        break;
      }
    }
  }
  return result;
}

std::string cell(const std::vector<double>& values) {
  if (values.empty()) return "-";
  const Spread s = spread(values);
  if (!std::isfinite(s.deviation)) return fmt::format("{:.2f}", 100 * s.mean);
  return fmt::format("{:.2f} ± {:.2f}", 100 * s.mean, 100 * s.deviation);
}

std::string difference_cell(const std::vector<double>& differences) {
  if (differences.empty()) return "-";
  const double half = half_interval(differences);
  const double mean = spread(differences).mean;
  if (!std::isfinite(half)) return fmt::format("{:+.2f}", 100 * mean);
  return fmt::format("{:+.2f} [{:+.2f}, {:+.2f}]", 100 * mean, 100 * (mean - half), 100 * (mean + half));
}

}  // namespace

Spread spread(std::vector<double> values) {
  Spread s;
  const auto n = static_cast<double>(values.size());
  for (const double value : values) s.mean += value / n;
  double squares = 0;
  for (const double value : values) squares += (value - s.mean) * (value - s.mean);
  s.deviation = values.size() < 2 ? std::nan("") : std::sqrt(squares / (n - 1));
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  if (values.empty()) {
    s.median = std::nan("");
  } else {
    s.median = values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
  }
  return s;
}

double half_interval(const std::vector<double>& values) {
  if (values.size() < 2) return std::nan("");
  const std::size_t freedom = values.size() - 1;
  const double quantile = freedom <= kStudent.size() ? kStudent[freedom - 1] : kNormal;
  return quantile * spread(values).deviation / std::sqrt(static_cast<double>(values.size()));
}

LabelledRun labelled(const Json& summary) {
  return {{}, text_in(summary, "method"), summary};
}

std::vector<ComparisonRow> compare_runs(const std::vector<LabelledRun>& runs) {
  std::vector<ComparisonRow> rows;
  for (const LabelledRun& run : runs) {
    const Json& summary = run.summary;
    if (text_in(summary, "status") != "finished" || !summary.contains("nets")) continue;
    for (const Json& net : summary["nets"]) {
      auto row = std::find_if(rows.begin(), rows.end(), [&](const ComparisonRow& other) {
        return other.pair == run.pair && other.method == run.method && other.net == text_in(net, "id") &&
               other.model == text_in(net, "model");
      });
      if (row == rows.end()) {
        rows.push_back({run.pair, run.method, text_in(net, "id"), text_in(net, "model"), {}, {}});
        row = rows.end() - 1;
      }
      const double seed = number_in(summary, "seed");
      const double best = number_in(net, "test_at_best");
      const double last = number_in(net, "test_last");
      if (std::isfinite(best)) row->at_best.push_back({seed, best});
      if (std::isfinite(last)) row->last.push_back({seed, last});
      ++row->runs;
      row->seconds += (number_in(summary, "seconds") - row->seconds) / row->runs;
    }
  }
  return rows;
}

Table comparison_table(const std::vector<ComparisonRow>& rows) {
  const bool pairs = std::any_of(rows.begin(), rows.end(), [](const auto& row) { return !row.pair.empty(); });
  const bool published =
      std::any_of(rows.begin(), rows.end(), [](const auto& row) { return row.published >= 0; });
  std::vector<Table::Column> columns = {{"method"},
                                        {"net"},
                                        {"model"},
                                        {"runs", Align::kRight},
                                        {"test@best", Align::kRight},
                                        {"median", Align::kRight},
                                        {"to independent [95%]", Align::kRight},
                                        {"test@last", Align::kRight},
                                        {"median", Align::kRight},
                                        {"to independent [95%]", Align::kRight}};
  if (pairs) columns.insert(columns.begin(), {"pair"});
  if (published) columns.push_back({"published", Align::kRight});
  columns.push_back({"time", Align::kRight});
  Table table(columns);
  for (const ComparisonRow& row : rows) {
    const ComparisonRow* baseline = baseline_of(rows, row);
    std::vector<std::string> cells;
    if (pairs) cells.push_back(row.pair);
    cells.insert(cells.end(), {row.method, row.net, row.model, std::to_string(row.runs)});
    for (const Values ComparisonRow::*part : {&ComparisonRow::at_best, &ComparisonRow::last}) {
      const Values& values = row.*part;
      cells.push_back(cell(tops(values)));
      cells.push_back(values.empty() ? "-" : fmt::format("{:.2f}", 100 * spread(tops(values)).median));
      cells.push_back(baseline == nullptr ? ""
                                          : difference_cell(paired_differences(values, baseline->*part)));
    }
    if (published) cells.push_back(row.published < 0 ? "" : fmt::format("{:.2f}", row.published));
    cells.push_back(format_duration(row.seconds));
    table.add(std::move(cells));
  }
  return table;
}

Json comparison_json(const std::vector<ComparisonRow>& rows) {
  Json list = Json::array();
  for (const ComparisonRow& row : rows) {
    Json json = Json::object();
    if (!row.pair.empty()) json["pair"] = row.pair;
    json.update({{"method", row.method}, {"net", row.net}, {"model", row.model}, {"runs", row.runs}});
    const ComparisonRow* baseline = baseline_of(rows, row);
    const auto put = [&](const std::string& name, const Values ComparisonRow::*part) {
      const Values& values = row.*part;
      const Spread s = spread(tops(values));
      put_number(json, name + "_mean", values.empty() ? std::nan("") : s.mean);
      put_number(json, name + "_deviation", s.deviation);
      put_number(json, name + "_median", s.median);
      if (baseline == nullptr) return;
      const std::vector<double> differences = paired_differences(values, baseline->*part);
      put_number(json, name + "_to_independent",
                 differences.empty() ? std::nan("") : spread(differences).mean);
      put_number(json, name + "_to_independent_half_interval", half_interval(differences));
    };
    put("test_at_best", &ComparisonRow::at_best);
    put("test_last", &ComparisonRow::last);
    if (row.published >= 0) json["published_percent"] = row.published;
    put_number(json, "seconds", row.seconds);
    list.push_back(std::move(json));
  }
  return list;
}

std::string comparison_csv(const std::vector<ComparisonRow>& rows) {
  // What the JSON holds, flat; a column that some rows lack is empty there.
  const Json list = comparison_json(rows);
  std::vector<std::string> columns;
  for (const Json& row : list) {
    for (const auto& [key, value] : row.items()) {
      const bool known = std::find(columns.begin(), columns.end(), key) != columns.end();
      if (!known && key != "nonfinite") columns.push_back(key);
    }
  }
  std::string text = fmt::format("{}\n", fmt::join(columns, ","));
  for (const Json& row : list) {
    std::vector<std::string> cells;
    for (const std::string& column : columns) {
      const bool there = row.contains(column) && !row[column].is_null();
      cells.push_back(!there                    ? ""
                      : row[column].is_string() ? row[column].get<std::string>()
                                                : row[column].dump());
    }
    text += fmt::format("{}\n", fmt::join(cells, ","));
  }
  return text;
}

}  // namespace cohort::tools
