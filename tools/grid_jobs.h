// A grid of trainings, several at once: each in a process of its own, with its share of the threads, so that
// one that crashes or runs out of memory takes no other with it. Results are those of one after the other.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/grid.h"

namespace cohort::tools {

struct JobOptions {
  int jobs = 1;
  std::optional<double> memory_gib;  // what all may take together; none: what the machine has left
};

// As run_grid(), with up to options.jobs cells at a time. A cell that starts from another's weights waits for
// it. First one step of every kind of cell is run to measure its memory: Error(kMemory) where that many do
// not fit. Ctrl-C and SIGTERM are passed on once, and all save. A cell that fails ends nothing but itself:
// the first failure is the exit code, after the others are done.
int run_grid_jobs(const std::vector<GridCell>& cells, const std::vector<std::string>& command,
                  const JobOptions& options, std::vector<LabelledRun>& runs);

}  // namespace cohort::tools
