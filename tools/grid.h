// Several trainings for one table: methods (with their options) x pairs of networks x seeds. Each is a run
// folder of its own; a finished one is skipped, a stopped one goes on, so that the same command can be given
// again.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tools/comparison.h"
#include "tools/config.h"
#include "tools/train_run.h"

namespace cohort::tools {

struct GridRow {
  std::string label;                                          // "dml+adm", "Naive+ICL"
  std::vector<std::pair<std::string, std::string>> settings;  // key, value
};

struct GridPair {
  std::string label;              // "resnet32+wrn_16_2"; empty: the networks of the settings
  std::vector<std::string> nets;  // as --net takes them
};

struct GridCell {
  std::string pair, row;
  Config config;
  std::string folder;
};

// Seeds from the settings' own upwards. Resolves every cell, so that mistakes show before anything is
// trained. Folders are OUT/<row>-s<seed>, or OUT/<pair>/<row>-s<seed> with named pairs.
std::vector<GridCell> make_grid(const ConfigSources& sources, const std::vector<GridPair>& pairs,
                                const std::vector<GridRow>& rows, std::int64_t num_seeds,
                                const std::string& out);

// How the cell goes on: from nothing, or from where it was stopped; nothing when it is finished. Throws
// Error(kCheckpoint) where its folder holds a run of other settings.
std::optional<TrainRequest> plan_cell(const GridCell& cell, const std::vector<std::string>& command);

// Trains what is missing, in order. Returns 0 and appends all summaries, or the exit code of a cell that was
// stopped.
int run_grid(const std::vector<GridCell>& cells, const std::vector<std::string>& command,
             std::vector<LabelledRun>& runs);

}  // namespace cohort::tools
