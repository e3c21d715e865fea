#include <fmt/format.h>

#include "core/checksum.h"
#include "tools/commands.h"
#include "tools/messages.h"
#include "tools/report.h"
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

}  // namespace cohort::tools
