// report.html of a run: one file that opens from disk, without scripts or anything from the network.
#pragma once

#include <string>

#include "tools/run_records.h"

namespace cohort::tools {

std::string html_report(const RunRecords& run);

}  // namespace cohort::tools
