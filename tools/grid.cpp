#include "tools/grid.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "core/checkpoint_store.h"
#include "tools/messages.h"
#include "tools/run_writer.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

bool exists(const std::string& path) {
  FileInfo info;
  return find_entry(system_file_system(), path, info, ErrorKind::kOutput);
}

bool has_checkpoint(const std::string& folder) {
  const std::string path = join_path(folder, "checkpoints");
  return exists(path) &&
         !CheckpointStore(system_file_system(), path, CheckpointAccess::kRead).steps().empty();
}

// Labels are for people; names of folders keep to letters, digits, dot, plus, minus and underscore.
std::string as_folder(std::string label) {
  std::replace_if(
      label.begin(), label.end(),
      [](unsigned char c) { return std::isalnum(c) == 0 && c != '.' && c != '+' && c != '-' && c != '_'; },
      '_');
  return label;
}

}  // namespace

std::vector<GridCell> make_grid(const ConfigSources& sources, const std::vector<GridPair>& pairs,
                                const std::vector<GridRow>& rows, std::int64_t num_seeds,
                                const std::string& out) {
  std::string root = out;
  while (root.size() > 1 && root.back() == '/') root.pop_back();
  std::vector<GridCell> cells;
  for (const GridPair& pair : pairs) {
    ConfigSources of_pair = sources;
    if (!pair.nets.empty()) of_pair.nets = pair.nets;
    const std::string folder = pair.label.empty() ? root : join_path(root, as_folder(pair.label));
    const std::int64_t first = resolve_config(of_pair).integer("seed");
    for (std::int64_t seed = first; seed < first + num_seeds; ++seed) {
      for (const GridRow& row : rows) {
        ConfigSources of_cell = of_pair;
        for (const auto& [key, value] : row.settings) of_cell.flags.push_back({row.label, key, value});
        of_cell.flags.push_back({"--seeds", "seed", std::to_string(seed)});
        cells.push_back({pair.label, row.label, resolve_config(of_cell),
                         join_path(folder, fmt::format("{}-s{}", as_folder(row.label), seed))});
      }
    }
  }
  return cells;
}

std::optional<TrainRequest> plan_cell(const GridCell& cell, const std::vector<std::string>& command) {
  TrainRequest request;
  request.config = cell.config;
  request.folder = cell.folder;
  request.command = command;
  request.answer = TrainAnswer::kNone;
  const std::string file = join_path(cell.folder, "config.toml");
  if (!exists(file)) return request;
  request.changes = check_changes(parse_config(read_small_file(file, kMaxConfigBytes), file), cell.config);
  const bool started = exists(join_path(cell.folder, "metrics.jsonl"));
  const Json summary = started ? read_run(system_file_system(), cell.folder).summary : Json();
  if (text_in(summary, "status") == "finished" && request.changes.empty()) return std::nullopt;
  request.resume = started && has_checkpoint(cell.folder);
  request.overwrite = started && !request.resume;
  return request;
}

int run_grid(const std::vector<GridCell>& cells, const std::vector<std::string>& command,
             std::vector<LabelledRun>& runs) {
  for (const GridCell& cell : cells) {
    const std::optional<TrainRequest> request = plan_cell(cell, command);
    const int code = request ? train(*request) : 0;
    if (code != 0) {
      print_note(
          fmt::format("stopped after {} of {} runs; the same command goes on", runs.size(), cells.size()));
      return code;
    }
    runs.push_back({cell.pair, cell.row, read_run(system_file_system(), cell.folder).summary});
  }
  return 0;
}

}  // namespace cohort::tools
