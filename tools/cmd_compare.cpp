#include <fmt/format.h>

#include <algorithm>

#include "core/checkpoint_store.h"
#include "tools/commands.h"
#include "tools/comparison.h"
#include "tools/messages.h"
#include "tools/option_keys.h"
#include "tools/run_writer.h"
#include "tools/text.h"
#include "tools/train_run.h"

namespace cohort::tools {
namespace {

int print_comparison(const Arguments& arguments, const std::vector<Json>& summaries) {
  const std::vector<ComparisonRow> rows = compare_runs(summaries);
  if (rows.empty()) throw Error(ErrorKind::kInput, "no finished run to compare", "cohort compare RUN...");
  if (arguments.has("--json")) {
    print_out(json_text(comparison_json(rows)));
  } else {
    print_out(arguments.has("--md") ? comparison_table(rows).markdown() : comparison_table(rows).text());
  }
  return 0;
}

int compare_folders(const Arguments& arguments) {
  std::vector<Json> summaries;
  for (const std::string& folder : arguments.positionals) {
    const RunRecords run = read_run(system_file_system(), folder);
    if (text_in(run.summary, "status") != "finished") {
      print_warning(fmt::format("'{}' is not finished: left out", printable(folder)));
    }
    summaries.push_back(run.summary);
  }
  return print_comparison(arguments, summaries);
}

bool exists(const std::string& path) {
  FileInfo info;
  return find_entry(system_file_system(), path, info, ErrorKind::kOutput);
}

bool has_checkpoint(const std::string& folder) {
  const std::string path = join_path(folder, "checkpoints");
  return exists(path) &&
         !CheckpointStore(system_file_system(), path, CheckpointAccess::kRead).steps().empty();
}

// One method with one seed: skipped when it is finished, resumed when it was stopped, started otherwise.
int train_cell(const Config& config, const std::string& folder, const Arguments& arguments) {
  TrainRequest request;
  request.config = config;
  request.folder = folder;
  request.command = arguments.words;
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

std::vector<std::string> method_list(const Arguments& arguments) {
  const std::vector<std::string> known = names_of(method_entries());
  std::vector<std::string> methods = split(arguments.value("--methods"), ',');
  for (const std::string& method : methods) {
    if (std::find(known.begin(), known.end(), method) != known.end()) continue;
    const std::string suggestion = did_you_mean(method, known);
    throw Error(ErrorKind::kUsage,
                fmt::format("--methods: '{}' is no method{}{}", printable(method),
                            suggestion.empty() ? "" : "; ", suggestion),
                fmt::format("one or more of {}", join(known, ",")));
  }
  return methods;
}

int compare_methods(const Arguments& arguments) {
  if (!arguments.positionals.empty()) {
    throw Error(ErrorKind::kUsage, "--methods trains runs of its own: no run folders beside it", "");
  }
  const auto seeds = parse_int(arguments.value("--seeds", "1"));
  if (!seeds || *seeds < 1 || *seeds > 1000) {
    throw Error(ErrorKind::kUsage, "--seeds: expected an integer from 1 to 1000", "--seeds 3");
  }
  std::string out = arguments.value("--out");
  while (out.size() > 1 && out.back() == '/') out.pop_back();
  if (out.empty())
    throw Error(ErrorKind::kUsage, "--methods needs a folder for the runs", "--out runs/table1");

  // All settings are checked before the first cell is trained.
  struct Cell {
    Config config;
    std::string folder;
  };
  std::vector<Cell> cells;
  const std::vector<std::string> methods = method_list(arguments);
  const std::int64_t first_seed = resolve_config(arguments.config_sources()).integer("seed");
  for (std::int64_t seed = first_seed; seed < first_seed + *seeds; ++seed) {
    for (const std::string& method : methods) {
      ConfigSources sources = arguments.config_sources();
      sources.flags.push_back({"--methods", "method", method});
      sources.flags.push_back({"--seeds", "seed", std::to_string(seed)});
      cells.push_back({resolve_config(sources), fmt::format("{}/{}-s{}", out, method, seed)});
    }
  }
  std::vector<Json> summaries;
  for (const Cell& cell : cells) {
    const int code = train_cell(cell.config, cell.folder, arguments);
    if (code != 0) {
      print_note(fmt::format("stopped after {} of {} runs; the same command goes on", summaries.size(),
                             cells.size()));
      return code;
    }
    summaries.push_back(read_run(system_file_system(), cell.folder).summary);
  }
  return print_comparison(arguments, summaries);
}

int run_compare(const Arguments& arguments) {
  if (arguments.has("--methods")) return compare_methods(arguments);
  if (arguments.positionals.empty()) {
    throw Error(ErrorKind::kUsage, "'cohort compare' needs RUN..., or --methods",
                "'cohort compare --help' shows both");
  }
  return compare_folders(arguments);
}

}  // namespace

CommandSpec compare_command() {
  CommandSpec spec;
  spec.name = "compare";
  spec.summary = "trains methods with several seeds, or reads runs, and prints one table";
  spec.positionals = "[RUN...]";
  spec.max_positionals = 10'000;
  spec.examples = {
      {"cohort compare --methods independent,dml,competitive --seeds 3 --out runs/table1 -c run.toml",
       "finished cells are skipped, stopped ones go on: give the same command again"},
      {"cohort compare runs/* --md", "only the table, as Markdown"}};
  for (const FlagSpec& flag : setting_flags()) {
    if (flag.name != "--method") spec.flags.push_back(flag);
  }
  const std::vector<FlagSpec> own = {
      {"--methods", "", "A,B,..", "methods to train", "Run"},
      {"--seeds", "", "N", "runs per method, from --seed upwards (default 1)", "Run"},
      {"--out", "-o", "DIR", "folder of the runs: DIR/<method>-s<seed>", "Run"},
      {"--md", "", "", "Markdown", "Output"},
      json_flag()};
  spec.flags.insert(spec.flags.end(), own.begin(), own.end());
  spec.details =
      "The difference to independent training is paired by seed; its interval is Student's, 95 %.\n";
  spec.run = run_compare;
  return spec;
}

}  // namespace cohort::tools
