// Who taught, and which teachers paused, over the steps of a run whose method decides it batch by batch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/run_records.h"
#include "tools/svg_chart.h"

namespace cohort::tools {

struct TeacherTimeline {
  struct Network {
    std::int64_t taught = 0;                // steps whose teacher it was
    std::int64_t expert = 0, learning = 0;  // of a teacher that may pause: paused, not paused
  };
  struct Window {
    std::int64_t first = 0, last = 0;  // epochs or steps, from 1, both inclusive
    std::int64_t steps = 0;            // that are in the records and name a teacher
    std::vector<Network> networks;     // in the order of ids
  };
  std::vector<std::string> ids;
  bool by_step = false;  // windows are of steps, not of epochs
  std::vector<Window> windows;

  bool has_teacher() const;
  // Whether this network is a teacher that may pause.
  bool has_modes(std::size_t network) const;
  bool empty() const;
};

// Of the steps that metrics.jsonl has. `window` steps each; 0: by epoch, several together beyond 200.
TeacherTimeline teacher_timeline(const RunRecords& run, std::int64_t window = 0);

// Stacked shares: one chart of who teaches, one of the modes of every teacher that may pause.
std::vector<Chart> teacher_charts(const TeacherTimeline& timeline);
// Windows with counts per network.
Json timeline_json(const TeacherTimeline& timeline);

}  // namespace cohort::tools
