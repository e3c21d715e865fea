// Names and creation of run folders (declared in run_writer.h).
#include <fmt/format.h>

#include <ctime>

#include "tools/run_writer.h"
#include "tools/text.h"

namespace cohort::tools {

std::string default_run_name(const Config& config) {
  std::vector<std::string> models;
  for (const NetworkSettings& network : config.networks()) models.push_back(network.model);
  std::string nets = join(models, "+");
  if (nets.size() > 80) nets = fmt::format("{}nets", models.size());
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  localtime_r(&now, &parts);
  return fmt::format("runs/{}-{}-{}-s{}-{:04}{:02}{:02}-{:02}{:02}{:02}", config.text("method"), nets,
                     config.text("data.name"), config.integer("seed"), parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

void check_run_folder(const std::string& folder, bool overwrite) {
  FileSystem& fs = system_file_system();
  for (const std::string& part : split(folder, '/')) {
    if (part.size() > 255) {
      throw Error(ErrorKind::kUsage, "a name in the path of the run folder is longer than 255 bytes",
                  "choose another --out");
    }
  }
  FileInfo info;
  if (folder.size() > 3500 || folder.empty() || folder.find('\0') != std::string::npos) {
    throw Error(ErrorKind::kUsage, "the path of the run folder is empty or longer than 3500 bytes",
                "choose another --out");
  }
  if (!find_entry(fs, folder, info, ErrorKind::kOutput)) return;
  if (info.kind != FileInfo::Kind::kFolder) {
    throw Error(ErrorKind::kUsage, fmt::format("'{}' exists and is no folder", printable(folder)),
                "choose another --out");
  }
  const std::vector<std::string> names = list_folder(fs, folder, ErrorKind::kOutput);
  if (names.empty()) return;
  FileInfo ignored;
  const bool is_run = find_entry(fs, join_path(folder, "config.toml"), ignored, ErrorKind::kOutput) &&
                      find_entry(fs, join_path(folder, "metrics.jsonl"), ignored, ErrorKind::kOutput);
  if (!overwrite) {
    throw Error(ErrorKind::kUsage, fmt::format("'{}' exists and is not empty", printable(folder)),
                is_run ? "--resume it, choose another --out, or --overwrite" : "choose another --out");
  }
  if (!is_run) {
    throw Error(ErrorKind::kUsage,
                fmt::format("'{}' is no run folder: it is not overwritten", printable(folder)),
                "choose another --out");
  }
}

void make_run_folder(const std::string& folder, bool overwrite) {
  FileSystem& fs = system_file_system();
  check_run_folder(folder, overwrite);
  make_folders(fs, folder);
  if (!overwrite) return;
  RunLock lock(fs, folder);  // another process may be writing there
  for (const std::string& name : list_folder(fs, folder, ErrorKind::kOutput)) {
    if (name != ".lock") remove_tree(fs, join_path(folder, name));
  }
}

}  // namespace cohort::tools
