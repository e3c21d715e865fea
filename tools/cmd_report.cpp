#include <fmt/format.h>

#include <cmath>
#include <map>

#include "core/checksum.h"
#include "tools/commands.h"
#include "tools/messages.h"
#include "tools/report.h"
#include "tools/table.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

int run_report(const Arguments& arguments) {
  const std::string& folder = arguments.positionals[0];
  const RunRecords run = read_run(system_file_system(), folder);
  const std::string path = arguments.value("--out", join_path(folder, "report.html"));
  durable_replace(system_file_system(), path, as_byte_span(html_report(run)));
  print_out(path + "\n");
  return 0;
}

// One value per run; mean and sample standard deviation.
struct Cell {
  std::vector<double> values;

  std::string text() const {
    if (values.empty()) return "-";
    double mean = 0;
    for (const double value : values) mean += value / static_cast<double>(values.size());
    if (values.size() == 1) return fmt::format("{:.2f}", 100 * mean);
    double squares = 0;
    for (const double value : values) squares += (value - mean) * (value - mean);
    return fmt::format("{:.2f} ± {:.2f}", 100 * mean,
                       100 * std::sqrt(squares / static_cast<double>(values.size() - 1)));
  }
};

struct Row {
  std::string method, net;
  Cell best, last;
  int runs = 0;
};

int run_compare(const Arguments& arguments) {
  std::vector<Row> rows;
  int unfinished = 0;
  for (const std::string& folder : arguments.positionals) {
    const RunRecords run = read_run(system_file_system(), folder);
    if (text_in(run.summary, "status") != "finished") {
      ++unfinished;
      print_warning(fmt::format("'{}' is not finished: left out", printable(folder)));
      continue;
    }
    for (const Json& net : run.summary["nets"]) {
      const std::string method = text_in(run.summary, "method");
      const std::string name = fmt::format("{} {}", text_in(net, "id"), text_in(net, "model"));
      Row* row = nullptr;
      for (Row& candidate : rows) {
        if (candidate.method == method && candidate.net == name) row = &candidate;
      }
      if (row == nullptr) row = &rows.emplace_back(Row{method, name, {}, {}, 0});
      ++row->runs;
      for (const auto& [key, cell] :
           {std::pair{"test_at_best", &row->best}, std::pair{"test_last", &row->last}}) {
        const double value = number_in(net, key);
        if (std::isfinite(value)) cell->values.push_back(value);
      }
    }
  }
  if (rows.empty()) throw Error(ErrorKind::kInput, "no finished run to compare", "");
  Table table({{"method"},
               {"net"},
               {"runs", Align::kRight},
               {"test@best", Align::kRight},
               {"test@last", Align::kRight}});
  for (const Row& row : rows) {
    table.add({row.method, row.net, std::to_string(row.runs), row.best.text(), row.last.text()});
  }
  print_out(arguments.has("--md") ? table.markdown() : table.text());
  return 0;
}

}  // namespace

CommandSpec report_command() {
  CommandSpec spec;
  spec.name = "report";
  spec.summary = "writes a run's report.html again";
  spec.positionals = "RUN";
  spec.min_positionals = 1;
  spec.max_positionals = 1;
  spec.examples = {{"cohort report runs/dml-...", "curves, table, loss and settings in one file"},
                   {"cohort report runs/dml-... -o /tmp/report.html", "also of a run that goes on"}};
  spec.flags = {{"--out", "-o", "FILE", "default: report.html in the run folder", "Output"}};
  spec.run = run_report;
  return spec;
}

CommandSpec compare_command() {
  CommandSpec spec;
  spec.name = "compare";
  spec.summary = "one table of several runs: mean and deviation over seeds";
  spec.positionals = "RUN...";
  spec.min_positionals = 1;
  spec.max_positionals = 10'000;
  spec.examples = {{"cohort compare runs/*", "rows are methods and networks"},
                   {"cohort compare runs/* --md", "as Markdown"}};
  spec.flags = {{"--md", "", "", "Markdown", "Output"}};
  spec.run = run_compare;
  return spec;
}

}  // namespace cohort::tools
