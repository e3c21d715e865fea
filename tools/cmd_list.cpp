#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/messages.h"
#include "tools/option_keys.h"
#include "tools/presets.h"
#include "tools/published.h"
#include "tools/table.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

// With the variants that --fidelity knows.
std::vector<NamedEntry> methods_with_variants() {
  std::vector<NamedEntry> entries = method_entries();
  for (NamedEntry& entry : entries) {
    std::vector<std::string> names;
    for (const NamedEntry& fidelity : fidelity_entries()) {
      if (fidelity.name.starts_with(entry.name + " "))
        names.push_back(fidelity.name.substr(entry.name.size() + 1));
    }
    if (!names.empty()) entry.help += fmt::format(" (fidelity: {})", join(names, ", "));
  }
  return entries;
}

int list_entries(const std::vector<NamedEntry>& entries, bool json) {
  if (json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const NamedEntry& entry : entries) {
      list.push_back({{"name", entry.name}, {"help", entry.help}, {"source", entry.source}});
    }
    print_out(list.dump(2) + "\n");
    return 0;
  }
  Table table({{"name"}, {"what it is"}, {"source"}});
  for (const NamedEntry& entry : entries) table.add({entry.name, entry.help, entry.source});
  print_out(table.text());
  return 0;
}

nlohmann::ordered_json value_json(const ConfigValue& value) {
  return std::visit([](const auto& v) { return nlohmann::ordered_json(v); }, value);
}

int list_options(const std::string& section, bool json) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  Table table({{"key"}, {"default"}, {"what it takes"}, {"what it does"}});
  for (const OptionKey& key : option_table().keys()) {
    const bool wanted =
        section.empty() || key.path == section || key.path.compare(0, section.size() + 1, section + ".") == 0;
    if (!wanted) continue;
    nlohmann::ordered_json entry = {{"key", key.path},
                                    {"default", value_json(key.default_value)},
                                    {"domain", describe_domain(key)},
                                    {"help", key.help},
                                    {"environment", environment_name(key.path)}};
    if (!key.choices.empty()) entry["choices"] = key.choices;
    if (!key.flag.empty()) entry["flag"] = key.flag;
    list.push_back(std::move(entry));
    table.add({key.path, to_toml(key.default_value), describe_domain(key), key.help});
  }
  if (list.empty()) {
    const std::string suggestion = option_table().suggest(section);
    throw Error(ErrorKind::kUsage, fmt::format("no settings under '{}'", section),
                suggestion.empty() ? "" : fmt::format("did you mean '{}'?", suggestion));
  }
  print_out(json ? list.dump(2) + "\n" : table.text());
  return 0;
}

std::vector<NamedEntry> preset_entries() {
  std::vector<NamedEntry> entries;
  for (const Preset& preset : presets()) entries.push_back({preset.name, preset.help, {}});
  return entries;
}

std::vector<NamedEntry> table_entries() {
  std::vector<NamedEntry> entries;
  for (const PublishedTable& table : published_tables()) {
    std::string pairs;
    for (const PublishedPair& pair : table.pairs) pairs += (pairs.empty() ? "" : ", ") + pair.label;
    entries.push_back({table.name, pairs, table.source});
  }
  return entries;
}

int run_list(const Arguments& arguments) {
  const bool json = arguments.has("--json");
  const std::string& what = arguments.positionals[0];
  if (what == "options")
    return list_options(arguments.positionals.size() > 1 ? arguments.positionals[1] : "", json);
  if (arguments.positionals.size() > 1) {
    throw Error(ErrorKind::kUsage, fmt::format("'cohort list {}' takes no further argument", what),
                "only 'cohort list options SECTION' does");
  }
  if (what == "methods") return list_entries(methods_with_variants(), json);
  if (what == "fidelities") return list_entries(fidelity_entries(), json);
  if (what == "additions") return list_entries(addition_entries(), json);
  if (what == "models") return list_entries(model_entries(), json);
  if (what == "datasets") return list_entries(dataset_entries(), json);
  if (what == "perturbations") return list_entries(perturbation_entries(), json);
  if (what == "tables") return list_entries(table_entries(), json);
  return list_entries(preset_entries(), json);
}

}  // namespace

CommandSpec list_command() {
  CommandSpec spec;
  spec.name = "list";
  spec.summary =
      "names of methods, fidelities, additions, models, data sets, perturbations, presets, tables and "
      "settings";
  spec.verbs = {"methods",       "fidelities", "additions", "models", "datasets",
                "perturbations", "presets",    "tables",    "options"};
  spec.positionals =
      "methods|fidelities|additions|models|datasets|perturbations|presets|tables|options [SECTION]";
  spec.min_positionals = 1;
  spec.max_positionals = 2;
  spec.examples = {{"cohort list methods", "who can teach whom, and the paper"},
                   {"cohort list fidelities", "variants of papers and codes, and what each sets"},
                   {"cohort list options distill --json", "every setting of a section, for scripts"}};
  spec.flags = {json_flag()};
  spec.run = run_list;
  return spec;
}

}  // namespace cohort::tools
