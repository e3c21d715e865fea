// One training run from settings to its end: what `cohort train` does once, and `cohort compare` for every
// cell.
#pragma once

#include <string>
#include <vector>

#include "tools/config.h"

namespace cohort::tools {

enum class TrainAnswer { kTable, kJson, kNone };  // on standard output

struct TrainRequest {
  Config config;
  std::string folder;  // empty: nothing is written
  bool resume = false;
  std::vector<std::string> changes;  // of settings, when it is resumed
  bool overwrite = false;
  bool dry_run = false;
  std::vector<std::string> command;  // for command.txt
  int threads = 0;                   // instead of the settings' own; 0: those
  std::string progress;              // as log.progress, instead of it; empty: that
  TrainAnswer answer = TrainAnswer::kTable;
};

// Returns the exit code: 0, or 75 and 130 after a stop; everything else is thrown.
int train(const TrainRequest& request);

// Of a GPU, in bytes; zeros on the CPU.
struct DeviceMemory {
  std::size_t used = 0, free = 0;  // by one step with all that it needs; before it
};
// Reads the data, builds the networks and takes one step; nothing is kept or written.
DeviceMemory memory_of_one_step(const Config& config, int threads);

// The run in `folder` with its own settings below those of `sources`.
TrainRequest resume_request(const std::string& folder, ConfigSources sources);

// What differs and may (limits, logging, where the data lies), as text. Throws Error(kCheckpoint) that lists
// what may not.
std::vector<std::string> check_changes(const Config& before, const Config& after);

}  // namespace cohort::tools
