#include "tools/run_records.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <optional>

#include "core/append_log.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

constexpr std::int64_t kMaxTextFile = 64 << 20;

std::optional<std::string> read_text(FileSystem& fs, const std::string& path) {
  FileInfo info;
  if (!find_entry(fs, path, info, ErrorKind::kInput)) return std::nullopt;
  const std::vector<std::byte> bytes = read_file(fs, path, kMaxTextFile, ErrorKind::kInput);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace

RunRecords read_run(FileSystem& fs, const std::string& folder) {
  RunRecords run;
  run.folder = folder;
  const auto config = read_text(fs, join_path(folder, "config.toml"));
  FileInfo info;
  if (!config || !find_entry(fs, join_path(folder, "metrics.jsonl"), info, ErrorKind::kInput)) {
    throw Error(
        ErrorKind::kInput,
        fmt::format("'{}' is no run folder: config.toml or metrics.jsonl is missing", printable(folder)),
        "give the folder that 'cohort train' printed");
  }
  run.config = *config;
  if (const auto summary = read_text(fs, join_path(folder, "summary.json"))) {
    run.summary = Json::parse(*summary, nullptr, false);
    if (!run.summary.is_object()) run.summary = nullptr;
  }
  for (const std::string& line : read_log_lines(fs, join_path(folder, "metrics.jsonl"))) {
    Json record = Json::parse(line, nullptr, false);
    const std::string kind = record.is_object() ? text_in(record, "kind") : "";
    if (kind.empty()) {
      ++run.damaged_lines;
    } else if (kind == "step") {
      run.steps.push_back(std::move(record));
    } else if (kind == "epoch") {
      run.epochs.push_back(std::move(record));
    } else {
      if (kind == "run_start" && run.start.is_null()) run.start = record;
      run.events.push_back(std::move(record));
    }
  }
  return run;
}

std::vector<std::string> RunRecords::network_ids() const {
  std::vector<std::string> ids;
  if (!start.is_object() || !start.contains("nets") || !start["nets"].is_array()) return ids;
  for (const Json& net : start["nets"]) ids.push_back(text_in(net, "id"));
  return ids;
}

double number_in(const Json& object, const char* key) {
  if (!object.is_object()) return std::numeric_limits<double>::quiet_NaN();
  const auto it = object.find(key);
  return it != object.end() && it->is_number() ? it->get<double>() : std::numeric_limits<double>::quiet_NaN();
}

std::string text_in(const Json& object, const char* key) {
  if (!object.is_object()) return {};
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

std::string json_text(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

void put_number(Json& object, const std::string& key, double value) {
  if (std::isfinite(value)) {
    object[key] = value;
  } else {
    object[key] = nullptr;
    object["nonfinite"].push_back(key);
  }
}

}  // namespace cohort::tools
