#include "tools/grid.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "core/checkpoint_store.h"
#include "tools/messages.h"
#include "tools/run_writer.h"
#include "tools/text.h"
#include "tools/train_run.h"

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

// Skipped when it is finished, resumed when it was stopped, started otherwise.
int train_cell(const Config& config, const std::string& folder, const std::vector<std::string>& command) {
  TrainRequest request;
  request.config = config;
  request.folder = folder;
  request.command = command;
  request.answer = TrainAnswer::kNone;
  const std::string file = join_path(folder, "config.toml");
  if (exists(file)) {
    request.changes = check_changes(parse_config(read_small_file(file, kMaxConfigBytes), file), config);
    const bool started = exists(join_path(folder, "metrics.jsonl"));
    const Json summary = started ? read_run(system_file_system(), folder).summary : Json();
    if (text_in(summary, "status") == "finished" && request.changes.empty()) return 0;
    request.resume = started && has_checkpoint(folder);
    request.overwrite = started && !request.resume;
  }
  return train(request);
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

int run_grid(const std::vector<GridCell>& cells, const std::vector<std::string>& command,
             std::vector<LabelledRun>& runs) {
  for (const GridCell& cell : cells) {
    const int code = train_cell(cell.config, cell.folder, command);
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
