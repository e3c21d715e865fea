#include <fmt/format.h>

#include <algorithm>

#include "tools/commands.h"
#include "tools/grid.h"
#include "tools/grid_command.h"
#include "tools/messages.h"
#include "tools/option_keys.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

int compare_folders(const Arguments& arguments) {
  std::vector<LabelledRun> runs;
  for (const std::string& folder : arguments.positionals) {
    const RunRecords run = read_run(system_file_system(), folder);
    if (text_in(run.summary, "status") != "finished") {
      print_warning(fmt::format("'{}' is not finished: left out", printable(folder)));
    }
    runs.push_back(labelled(run.summary));
  }
  return print_comparison(arguments, compare_runs(runs));
}

// "dml", "dml:okddip", "dml+adm": a method, the variant of a source, what joins it.
GridRow row_of(const std::string& text) {
  const std::size_t plus = text.find('+');
  const std::string variant = text.substr(0, plus);
  const std::size_t colon = variant.find(':');
  const std::string method = variant.substr(0, colon);
  GridRow row{text, {{"method", method}}};
  if (colon != std::string::npos) row.settings.emplace_back("fidelity", variant.substr(colon + 1));
  if (plus != std::string::npos) row.settings.emplace_back("add", text.substr(plus + 1));
  const std::vector<std::string> known = names_of(method_entries());
  if (std::find(known.begin(), known.end(), method) == known.end()) {
    const std::string suggestion = did_you_mean(method, known);
    throw Error(
        ErrorKind::kUsage,
        fmt::format("--methods: '{}' is no method{}{}", printable(method), suggestion.empty() ? "" : "; ",
                    suggestion),
        fmt::format("one or more of {}; METHOD:FIDELITY is a source's variant, METHOD+ADDITION joins terms",
                    join(known, ",")));
  }
  return row;
}

// "resnet32+wrn_16_2,resnet20+resnet20"
std::vector<GridPair> pairs_of(const Arguments& arguments) {
  if (!arguments.has("--pairs")) return {GridPair{}};
  std::vector<GridPair> pairs;
  for (const std::string& pair : split(arguments.value("--pairs"), ','))
    pairs.push_back({pair, split(pair, '+')});
  return pairs;
}

int compare_methods(const Arguments& arguments) {
  if (!arguments.positionals.empty()) {
    throw Error(ErrorKind::kUsage, "--methods trains runs of its own: no run folders beside it", "");
  }
  if (!arguments.has("--out"))
    throw Error(ErrorKind::kUsage, "--methods needs a folder for the runs", "--out runs/table1");
  std::vector<GridRow> rows;
  for (const std::string& method : split(arguments.value("--methods"), ',')) rows.push_back(row_of(method));
  const std::vector<GridCell> cells = make_grid(arguments.config_sources(), pairs_of(arguments), rows,
                                                number_of_seeds(arguments, 1), arguments.value("--out"));
  std::vector<LabelledRun> runs;
  const int code = train_grid(arguments, cells, runs);
  return code == 0 ? print_comparison(arguments, compare_runs(runs)) : code;
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
      {"cohort compare --methods independent,dml,dml+adm --pairs resnet32+wrn_16_2,resnet20+resnet56 --out "
       "runs/t2",
       "several pairs"},
      {"cohort compare runs/* --md", "only the table, as Markdown"}};
  for (const FlagSpec& flag : setting_flags()) {
    if (flag.name != "--method" && flag.name != "--fidelity") spec.flags.push_back(flag);
  }
  const std::vector<FlagSpec> own = {
      {"--methods", "", "A,B,..",
       "methods to train; A:paper: a source's variant; A+adm: with the terms of an addition", "Run"},
      {"--pairs", "", "A+B,C+D,..", "networks to train together, instead of --net", "Run"}};
  spec.flags.insert(spec.flags.end(), own.begin(), own.end());
  for (const FlagSpec& flag : grid_flags()) spec.flags.push_back(flag);
  spec.details =
      "The difference to independent training is paired by seed; its interval is Student's, 95 %.\n";
  spec.run = run_compare;
  return spec;
}

}  // namespace cohort::tools
