#include "tools/config.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "distill/method.h"
#include "kernels/base/error.h"
#include "tools/config_builder.h"
#include "tools/presets.h"
#include "tools/text.h"
#include "tools/toml_reader.h"

namespace cohort::tools {
namespace {

struct NamedDocument {
  std::string name;
  TomlDocument document;
};

// The last source that names this key of text wins, as for every other key.
std::string chosen(const char* key, std::string start, const ConfigSources& sources,
                   const std::vector<NamedDocument>& documents) {
  std::string name = std::move(start);
  const std::string assigns = std::string(key) + "=";
  for (const NamedDocument& file : documents) {
    const TomlNode* node = file.document.root.find(key);
    if (node != nullptr && node->kind == TomlNode::Kind::kString) name = node->text;
  }
  for (const auto& [variable, text] : sources.environment) {
    if (variable == environment_name(key)) name = text;
  }
  for (const std::string& assignment : sources.sets) {
    if (!assignment.starts_with(assigns)) continue;
    const Converted converted = convert_text(*option_table().find(key), assignment.substr(assigns.size()));
    if (converted.problem.empty()) name = std::get<std::string>(converted.value);
  }
  for (const FlagValue& flag : sources.flags) {
    if (flag.key == key) name = flag.text;
  }
  return name;
}

// What the method's variant sets; a name that it does not have is a mistake that finish() tells.
void apply_fidelity(ConfigBuilder& builder, const std::string& method, const std::string& name) {
  for (const distill::MethodInfo& info : distill::registry()) {
    if (info.name != method) continue;
    for (const distill::Fidelity& fidelity : info.fidelities) {
      if (fidelity.name != name) continue;
      for (const auto& [key, value] : fidelity.settings)
        builder.apply_text("distill." + key, value, "fidelity " + name);
    }
  }
}

Config merge(const ConfigSources& sources, const std::vector<NamedDocument>& documents,
             std::vector<Diagnostic> unreadable) {
  ConfigBuilder builder;
  for (Diagnostic& diagnostic : unreadable) builder.add_problem(std::move(diagnostic));
  std::string method = std::get<std::string>(option_table().find("method")->default_value);
  if (const Preset* preset = find_preset(chosen("preset", "", sources, documents))) {
    const TomlDocument document = read_toml(preset->toml);
    check(document.problems.empty(), "a preset is not valid TOML");
    builder.apply_document(document, "preset " + preset->name);
    if (const TomlNode* node = document.root.find("method")) method = node->text;
  }
  apply_fidelity(builder, chosen("method", method, sources, documents),
                 chosen("fidelity", "", sources, documents));
  for (const NamedDocument& file : documents) builder.apply_document(file.document, file.name);
  for (const auto& [name, text] : sources.environment) builder.apply_environment(name, text);
  for (const std::string& assignment : sources.sets) builder.apply_set(assignment);
  for (const FlagValue& flag : sources.flags) builder.apply_text(flag.key, flag.text, flag.flag);
  builder.apply_nets(sources.nets);
  builder.apply_inits(sources.inits);
  return builder.finish();
}

// One line per key; sections in the order of the table, the keys of a section together.
std::vector<std::string> sections_in_order() {
  std::vector<std::string> sections = {""};
  for (const OptionKey& key : option_table().keys()) {
    const std::size_t dot = key.path.rfind('.');
    const std::string section = dot == std::string::npos ? "" : key.path.substr(0, dot);
    if (std::find(sections.begin(), sections.end(), section) == sections.end()) sections.push_back(section);
  }
  return sections;
}

std::string leaf_in(const std::string& section, const std::string& path) {
  return section.empty() ? path : path.substr(section.size() + 1);
}

std::string networks_to_toml(const std::vector<NetworkSettings>& networks) {
  std::string out;
  for (const NetworkSettings& network : networks) {
    out += fmt::format("\n[[networks]]\nid = {}\nmodel = {}\n", toml_quote(network.id),
                       toml_quote(network.model));
    if (!network.init.empty()) out += fmt::format("init = {}\n", toml_quote(network.init));
    for (const auto& [key, value] : network.overrides) out += fmt::format("{} = {}\n", key, to_toml(value));
  }
  return out;
}

template <class Line>
std::string write_sections(const Line& line) {
  std::string out;
  for (const std::string& section : sections_in_order()) {
    if (!section.empty()) out += fmt::format("\n[{}]\n", section);
    for (const OptionKey& key : option_table().keys()) {
      const std::size_t dot = key.path.rfind('.');
      if ((dot == std::string::npos ? "" : key.path.substr(0, dot)) != section) continue;
      out += line(key, leaf_in(section, key.path));
    }
  }
  return out;
}

}  // namespace

double NetworkSettings::number(const std::string& key, double otherwise) const {
  const auto it = overrides.find(key);
  return it == overrides.end() ? otherwise : std::get<double>(it->second);
}

const Config::Setting& Config::setting(std::string_view key) const {
  const auto it = settings_.find(key);
  if (it == settings_.end()) internal_error(fmt::format("config: no key '{}'", key));
  return it->second;
}

const ConfigValue& Config::value(std::string_view key) const {
  return setting(key).value;
}
const std::string& Config::origin(std::string_view key) const {
  return setting(key).origin;
}
bool Config::flag(std::string_view key) const {
  return std::get<bool>(value(key));
}
std::int64_t Config::integer(std::string_view key) const {
  return std::get<std::int64_t>(value(key));
}
double Config::number(std::string_view key) const {
  return std::get<double>(value(key));
}
const std::string& Config::text(std::string_view key) const {
  return std::get<std::string>(value(key));
}
void Config::override_value(std::string_view key, ConfigValue new_value, std::string new_origin) {
  const auto it = settings_.find(key);
  check(it != settings_.end() && it->second.value.index() == new_value.index(),
        "config: override of another type");
  it->second = {std::move(new_value), std::move(new_origin)};
}

std::string Config::to_toml(bool origins) const {
  return write_sections([&](const OptionKey& key, const std::string& leaf) {
           const Setting& chosen = setting(key.path);
           const std::string line = fmt::format("{} = {}", leaf, tools::to_toml(chosen.value));
           return origins ? fmt::format("{:<44}  # {}\n", line, printable(chosen.origin)) : line + "\n";
         }) +
         networks_to_toml(networks_);
}

std::vector<std::string> Config::difference(const Config& other) const {
  std::vector<std::string> keys;
  for (const OptionKey& key : option_table().keys()) {
    if (value(key.path) != other.value(key.path)) keys.push_back(key.path);
  }
  if (networks_to_toml(networks_) != networks_to_toml(other.networks_)) keys.emplace_back("networks");
  return keys;
}

Config resolve_config(const ConfigSources& sources) {
  std::vector<NamedDocument> documents;
  std::vector<Diagnostic> unreadable;
  for (const std::string& path : sources.files) {
    try {
      documents.push_back({path, read_toml(read_small_file(path, kMaxConfigBytes))});
    } catch (const Error& error) {
      unreadable.push_back(error_block(error.what(), error.hint()));
    }
  }
  return merge(sources, documents, std::move(unreadable));
}

Config parse_config(std::string_view toml, const std::string& name) {
  std::vector<NamedDocument> documents;
  documents.push_back({name, read_toml(toml)});
  return merge({}, documents, {});
}

std::vector<std::pair<std::string, std::string>> cohort_environment() {
  std::vector<std::pair<std::string, std::string>> result;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::size_t equals = text.find('=');
    if (text.substr(0, 7) != "COHORT_" || equals == std::string_view::npos) continue;
    if (text.substr(0, 12) == "COHORT_CUDA_") continue;  // read by the CUDA backend itself, no settings
    result.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  std::sort(result.begin(), result.end());
  return result;
}

std::string config_template(const Config& config) {
  std::string out = "# Settings of a cohort run. Every key is shown; delete what you do not change.\n\n";
  out += write_sections([&](const OptionKey& key, const std::string& leaf) {
    return fmt::format("# {} ({})\n{} = {}\n", key.help, describe_domain(key), leaf,
                       to_toml(config.value(key.path)));
  });
  return out + networks_to_toml(config.networks());
}

}  // namespace cohort::tools
