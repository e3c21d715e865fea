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
    return other.method == kBaseline && other.net == row.net && other.model == row.model;
  });
  return it == rows.end() ? nullptr : &*it;
}

std::vector<double> paired_differences(const ComparisonRow& row, const ComparisonRow& baseline) {
  std::vector<double> result;
  for (const ComparisonRow::Value& value : row.at_best) {
    for (const ComparisonRow::Value& other : baseline.at_best) {
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

Spread spread(const std::vector<double>& values) {
  Spread s;
  for (const double value : values) s.mean += value / static_cast<double>(values.size());
  double squares = 0;
  for (const double value : values) squares += (value - s.mean) * (value - s.mean);
  s.deviation =
      values.size() < 2 ? std::nan("") : std::sqrt(squares / static_cast<double>(values.size() - 1));
  return s;
}

double half_interval(const std::vector<double>& values) {
  if (values.size() < 2) return std::nan("");
  const std::size_t freedom = values.size() - 1;
  const double quantile = freedom <= kStudent.size() ? kStudent[freedom - 1] : kNormal;
  return quantile * spread(values).deviation / std::sqrt(static_cast<double>(values.size()));
}

std::vector<ComparisonRow> compare_runs(const std::vector<Json>& summaries) {
  std::vector<ComparisonRow> rows;
  for (const Json& summary : summaries) {
    if (text_in(summary, "status") != "finished" || !summary.contains("nets")) continue;
    for (const Json& net : summary["nets"]) {
      const std::string method = text_in(summary, "method");
      auto row = std::find_if(rows.begin(), rows.end(), [&](const ComparisonRow& other) {
        return other.method == method && other.net == text_in(net, "id") &&
               other.model == text_in(net, "model");
      });
      if (row == rows.end()) {
        rows.push_back({method, text_in(net, "id"), text_in(net, "model"), {}, {}, 0, 0});
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
  Table table({{"method"},
               {"net"},
               {"model"},
               {"runs", Align::kRight},
               {"test@best", Align::kRight},
               {"test@last", Align::kRight},
               {"to independent [95%]", Align::kRight},
               {"time", Align::kRight}});
  for (const ComparisonRow& row : rows) {
    const ComparisonRow* baseline = baseline_of(rows, row);
    table.add({row.method, row.net, row.model, std::to_string(row.runs), cell(tops(row.at_best)),
               cell(tops(row.last)),
               baseline == nullptr ? "" : difference_cell(paired_differences(row, *baseline)),
               format_duration(row.seconds)});
  }
  return table;
}

Json comparison_json(const std::vector<ComparisonRow>& rows) {
  Json list = Json::array();
  for (const ComparisonRow& row : rows) {
    Json json = {{"method", row.method}, {"net", row.net}, {"model", row.model}, {"runs", row.runs}};
    const auto put_spread = [&](const char* name, const std::vector<double>& values) {
      const Spread s = spread(values);
      put_number(json, std::string(name) + "_mean", values.empty() ? std::nan("") : s.mean);
      put_number(json, std::string(name) + "_deviation", s.deviation);
    };
    put_spread("test_at_best", tops(row.at_best));
    put_spread("test_last", tops(row.last));
    if (const ComparisonRow* baseline = baseline_of(rows, row)) {
      const std::vector<double> differences = paired_differences(row, *baseline);
      put_number(json, "to_independent", differences.empty() ? std::nan("") : spread(differences).mean);
      put_number(json, "to_independent_half_interval", half_interval(differences));
    }
    put_number(json, "seconds", row.seconds);
    list.push_back(std::move(json));
  }
  return list;
}

}  // namespace cohort::tools
