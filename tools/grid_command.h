// What the subcommands that train a grid have in common: their flags and the table at the end.
#pragma once

#include <vector>

#include "tools/args.h"
#include "tools/comparison.h"
#include "tools/grid_jobs.h"

namespace cohort::tools {

// --seeds, --out, --jobs, --memory, --md, --csv, --json.
std::vector<FlagSpec> grid_flags();

// Throws Error(kUsage) unless it is 1 to 1000.
std::int64_t number_of_seeds(const Arguments& arguments, std::int64_t otherwise);

// run_grid() or, with --jobs above 1, run_grid_jobs(). Throws Error(kUsage) for flags that cannot be.
int train_grid(const Arguments& arguments, const std::vector<GridCell>& cells,
               std::vector<LabelledRun>& runs);

// On standard output, in the form that the flags ask for. Throws Error(kInput) for no rows.
int print_comparison(const Arguments& arguments, const std::vector<ComparisonRow>& rows);

}  // namespace cohort::tools
