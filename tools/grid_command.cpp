#include "tools/grid_command.h"

#include "tools/messages.h"
#include "tools/text.h"

namespace cohort::tools {

std::vector<FlagSpec> grid_flags() {
  return {{"--seeds", "", "N", "runs of each cell, from --seed upwards", "Run"},
          {"--out", "-o", "DIR", "folder of the runs", "Run"},
          {"--jobs", "", "N", "cohorts that train at once, each with its share of the threads (1)", "Run"},
          {"--memory", "", "GIB", "host memory that they may take together (what is free)", "Run"},
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

int train_grid(const Arguments& arguments, const std::vector<GridCell>& cells,
               std::vector<LabelledRun>& runs) {
  const auto jobs = parse_int(arguments.value("--jobs", "1"));
  if (!jobs || *jobs < 1 || *jobs > 256)
    throw Error(ErrorKind::kUsage, "--jobs: expected an integer from 1 to 256", "--jobs 2");
  JobOptions options{.jobs = static_cast<int>(*jobs), .memory_gib = {}};
  if (arguments.has("--memory")) {
    options.memory_gib = parse_float(arguments.value("--memory"));
    if (!options.memory_gib || !(*options.memory_gib > 0) || *options.memory_gib > 1e6)
      throw Error(ErrorKind::kUsage, "--memory: expected a number of GiB above 0", "--memory 12");
    if (*jobs == 1)
      throw Error(ErrorKind::kUsage, "--memory is for several cohorts at once", "with --jobs 2 or more");
  }
  return *jobs == 1 ? run_grid(cells, arguments.words, runs)
                    : run_grid_jobs(cells, arguments.words, options, runs);
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
