#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tools/commands.h"
#include "tools/grid.h"
#include "tools/grid_command.h"
#include "tools/messages.h"
#include "tools/option_keys.h"
#include "tools/published.h"
#include "tools/schedule_spec.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

double scale_of(const Arguments& arguments) {
  const auto scale = parse_float(arguments.value("--scale", "1"));
  if (!scale || !(*scale > 0) || *scale > 1) {
    throw Error(ErrorKind::kUsage, "--scale: expected a number above 0, at most 1",
                "--scale 0.1 trains a tenth of the epochs");
  }
  return *scale;
}

int scaled(int epochs, double scale) {
  return std::max(1, static_cast<int>(std::lround(epochs * scale)));
}

// The recipe's epochs and the drops of its learning rate, all shorter by the same factor.
struct Recipe {
  int epochs, full_epochs;
  std::string schedule;
};
Recipe recipe_of(const Config& config, double scale) {
  Recipe recipe;
  recipe.full_epochs = static_cast<int>(config.integer("train.epochs"));
  recipe.epochs = scaled(recipe.full_epochs, scale);
  recipe.schedule = config.text("optim.schedule");
  const ScheduleSpec spec = parse_schedule(recipe.schedule).spec;
  if (spec.kind != ScheduleSpec::Kind::kStep && spec.kind != ScheduleSpec::Kind::kEvery) return recipe;
  std::vector<std::string> epochs;
  for (const int epoch : spec.epochs) epochs.push_back(std::to_string(scaled(epoch, scale)));
  // Drops that fall on the same epoch are one drop of both factors: two of a schedule this short are not
  // told apart.
  epochs.erase(std::unique(epochs.begin(), epochs.end()), epochs.end());
  recipe.schedule = fmt::format("{}:{}:{:g}", spec.kind == ScheduleSpec::Kind::kStep ? "step" : "every",
                                join(epochs, ","), spec.factor);
  return recipe;
}

bool known(const std::vector<NamedEntry>& entries, const std::string& name) {
  return std::any_of(entries.begin(), entries.end(), [&](const NamedEntry& e) { return e.name == name; });
}

// What a row needs and this build does not have; empty: nothing.
std::string missing(const std::vector<std::string>& nets, const PublishedRow& row) {
  for (const auto& [key, value] : row.settings) {
    if (key == "method" && !known(method_entries(), value)) return "the method " + value;
  }
  for (const std::string& net : nets) {
    const std::string model = net.substr(0, net.find(':'));
    if (!known(model_entries(), model)) return "the model " + model;
  }
  return {};
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

struct Plan {
  std::vector<GridCell> cells;
  std::vector<std::string> left_out;
};

// A row may have networks of its own, and a teacher among them is that of the same seed.
Plan make_plan(const Arguments& arguments, const PublishedTable& table, const ConfigSources& sources) {
  const std::int64_t first = resolve_config(sources).integer("seed");
  const std::int64_t seeds = number_of_seeds(arguments, 1);
  Plan plan;
  for (const PublishedPair& pair : table.pairs) {
    for (std::int64_t seed = first; seed < first + seeds; ++seed) {
      ConfigSources of_seed = sources;
      of_seed.flags.push_back({"--seeds", "seed", std::to_string(seed)});
      std::string vanilla;  // the folder of the first row
      for (const PublishedRow& row : pair.rows) {
        std::vector<std::string> nets = row.nets.empty() ? pair.nets : row.nets;
        const std::string lack = missing(nets, row);
        if (!lack.empty()) {
          if (seed == first)
            plan.left_out.push_back(fmt::format("{}, {}: {} is not there", pair.label, row.label, lack));
          continue;
        }
        for (std::string& net : nets) net = replaced(net, "{vanilla}", vanilla);
        plan.cells.push_back(
            make_grid(of_seed, {{pair.label, nets}}, {{row.label, row.settings}}, 1, arguments.value("--out"))
                .front());
        if (vanilla.empty()) vanilla = plan.cells.back().folder;
      }
    }
  }
  return plan;
}

void add_published(const PublishedTable& table, std::vector<ComparisonRow>& rows) {
  for (ComparisonRow& row : rows) {
    for (const PublishedPair& pair : table.pairs) {
      if (pair.label != row.pair) continue;
      for (const PublishedRow& printed : pair.rows) {
        const auto value = printed.top1.find(row.net);
        if (printed.label == row.method && value != printed.top1.end()) row.published = value->second;
      }
    }
  }
}

int run_reproduce(const Arguments& arguments) {
  const PublishedTable& table = find_published_table(arguments.positionals[0]);
  if (!arguments.has("--out"))
    throw Error(ErrorKind::kUsage, "a table needs a folder for its runs", "--out runs/" + table.name);
  const double scale = scale_of(arguments);
  ConfigSources sources = arguments.config_sources();
  sources.flags.insert(sources.flags.begin(), {"reproduce", "preset", table.preset});
  // All training images are trained on, as in the papers; the test set then chooses the best epoch, so the
  // last epoch is the honest number. What the user sets comes later and wins.
  sources.flags.insert(sources.flags.begin(), {"reproduce", "data.val_fraction", "0"});
  const Recipe recipe = recipe_of(resolve_config(sources), scale);
  sources.flags.push_back({"--scale", "train.epochs", std::to_string(recipe.epochs)});
  sources.flags.push_back({"--scale", "optim.schedule", recipe.schedule});
  const Plan plan = make_plan(arguments, table, sources);

  const std::string head =
      fmt::format("{}\nrecipe {}{}: {} of {} epochs, {}; published: {}, {} epochs\n", table.source,
                  table.preset, scale < 1 ? fmt::format(", scale {:g}", scale) : "", recipe.epochs,
                  recipe.full_epochs, recipe.schedule, table.statistic, recipe.full_epochs);
  for (const std::string& row : plan.left_out) print_note("left out: " + row);
  std::vector<LabelledRun> runs;
  const int code = train_grid(arguments, plan.cells, runs);
  if (code != 0) return code;
  std::vector<ComparisonRow> rows = compare_runs(runs);
  add_published(table, rows);
  const bool for_people = !arguments.has("--json") && !arguments.has("--csv");
  for_people ? print_out(head + "\n") : print_note(head);
  return print_comparison(arguments, rows);
}

}  // namespace

CommandSpec reproduce_command() {
  CommandSpec spec;
  spec.name = "reproduce";
  spec.summary = "trains a published table and prints it beside the paper's numbers";
  spec.positionals = "TABLE";
  spec.min_positionals = 1;
  spec.max_positionals = 1;
  spec.examples = {
      {"cohort reproduce kdcl-table7 --data-root data/sets --seeds 5 --out runs/kdcl-table7",
       "the recipe as it is"},
      {"cohort reproduce kdcl-table7 --data-root data/sets --scale 0.05 --precision bf16 --out runs/short",
       "a twentieth of the epochs, drops of the learning rate with them; the table says so"},
      {"cohort list tables", "what there is"}};
  for (const FlagSpec& flag : setting_flags()) {
    const bool own = flag.name == "--method" || flag.name == "--fidelity" || flag.name == "--net" ||
                     flag.name == "--preset" || flag.name == "--epochs" || flag.name == "--schedule" ||
                     flag.name == "--add";
    if (!own) spec.flags.push_back(flag);
  }
  spec.flags.push_back(
      {"--scale", "", "X", "shortens the recipe: epochs and drops times X (default 1)", "Run"});
  for (const FlagSpec& flag : grid_flags()) spec.flags.push_back(flag);
  spec.details =
      "Finished runs are skipped and stopped ones go on: give the same command again. Rows whose method or "
      "model this\n"
      "build does not have are left out, and named.\n";
  spec.run = run_reproduce;
  return spec;
}

}  // namespace cohort::tools
