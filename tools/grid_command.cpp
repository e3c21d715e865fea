#include "tools/grid_command.h"

#include "tools/messages.h"
#include "tools/text.h"

namespace cohort::tools {

std::vector<FlagSpec> grid_flags() {
  return {{"--seeds", "", "N", "runs of each cell, from --seed upwards", "Run"},
          {"--out", "-o", "DIR", "folder of the runs", "Run"},
          {"--md", "", "", "Markdown", "Output"},
          {"--csv", "", "", "comma-separated values", "Output"},
          json_flag()};
}

std::int64_t number_of_seeds(const Arguments& arguments, std::int64_t otherwise) {
  const auto seeds = parse_int(arguments.value("--seeds", std::to_string(otherwise)));
  if (!seeds || *seeds < 1 || *seeds > 1000)
    throw Error(ErrorKind::kUsage, "--seeds: expected an integer from 1 to 1000", "--seeds 3");
  return *seeds;
}

int print_comparison(const Arguments& arguments, const std::vector<ComparisonRow>& rows) {
  if (rows.empty()) throw Error(ErrorKind::kInput, "no finished run to compare", "cohort compare RUN...");
  if (arguments.has("--json")) {
    print_out(json_text(comparison_json(rows)));
  } else if (arguments.has("--csv")) {
    print_out(comparison_csv(rows));
  } else {
    print_out(arguments.has("--md") ? comparison_table(rows).markdown() : comparison_table(rows).text());
  }
  return 0;
}

}  // namespace cohort::tools
