// What a run leaves behind in metrics.jsonl, read back: for reports, comparisons and `inspect run`.
//
// One JSON object per line, "kind" says which: run_start, step, epoch, checkpoint, warning, resume, run_end.
// A number that was not finite is null, and its name stands in "nonfinite".
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/file_system.h"

namespace cohort::tools {

using Json = nlohmann::ordered_json;

struct RunRecords {
  std::string folder;
  std::string config;  // config.toml as it is
  Json start;          // the first run_start, or null
  Json summary;        // summary.json, or null while the run goes on
  std::vector<Json> steps;
  std::vector<Json> epochs;
  std::vector<Json> events;  // the rest
  int damaged_lines = 0;     // that were no JSON object of a known version

  std::vector<std::string> network_ids() const;
};

// Throws Error(kInput) when the folder is no run.
RunRecords read_run(FileSystem& fs, const std::string& folder);

// A member of an object as a double; NaN where it is missing, null or no number.
double number_in(const Json& object, const char* key);
std::string text_in(const Json& object, const char* key);

// Indented text; bytes that are not UTF-8 (a file name) are replaced, never an error.
std::string json_text(const Json& json);

// JSON without NaN: a value that is not finite becomes null and its key is noted in "nonfinite".
void put_number(Json& object, const std::string& key, double value);

}  // namespace cohort::tools
