#include "tools/config_builder.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "tools/option_keys.h"
#include "tools/run_setup.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

constexpr const char* kListKeys = "'cohort list options' shows every key";

std::string join_path(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : prefix + "." + name;
}

std::string leaf_of(const std::string& path) {
  const std::size_t dot = path.rfind('.');
  return dot == std::string::npos ? path : path.substr(dot + 1);
}

// In the section of the wrong key only the last word is shown, as it would be typed there.
std::string suggestion_note(const std::string& path, const std::string& suggestion) {
  if (suggestion.empty()) return {};
  const std::string section = path.substr(0, path.size() - leaf_of(path).size());
  const bool sibling = suggestion.compare(0, section.size(), section) == 0 && !section.empty();
  return fmt::format("did you mean '{}'?", sibling ? suggestion.substr(section.size()) : suggestion);
}

// a, b, ..., z, n26, n27, ...
std::string automatic_id(int index) {
  return index < 26 ? std::string(1, static_cast<char>('a' + index)) : fmt::format("n{}", index);
}

bool is_network_id(const std::string& id) {
  const bool characters = std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  });
  return characters && !id.empty() && id.size() <= 32 && id[0] != '-';
}

}  // namespace

ConfigBuilder::ConfigBuilder() {
  for (const OptionKey& key : option_table().keys())
    config_.settings_[key.path] = {key.default_value, "default"};
}

void ConfigBuilder::document_problem(const Source& source, TomlMark mark, std::string headline,
                                     std::string note, std::string help) {
  Diagnostic diagnostic;
  diagnostic.headline = std::move(headline);
  diagnostic.snippet = {source.name,    mark.line, mark.column, mark.length, source.document.line(mark.line),
                        std::move(note)};
  diagnostic.help = std::move(help);
  problems_.push_back(std::move(diagnostic));
}

void ConfigBuilder::argument_problem(std::string headline, const std::string& shown, std::string help) {
  Diagnostic diagnostic;
  diagnostic.headline =
      shown.empty() ? std::move(headline) : fmt::format("{}: {}", printable(shown), headline);
  diagnostic.help = std::move(help);
  problems_.push_back(std::move(diagnostic));
}

void ConfigBuilder::unknown_key(const Source& source, const TomlNode& node, const std::string& path,
                                const OptionTable& table) {
  document_problem(source, node.key, fmt::format("unknown key '{}'", printable(path)),
                   suggestion_note(path, table.suggest(path)), kListKeys);
}

void ConfigBuilder::apply_document(const TomlDocument& document, const std::string& name) {
  const Source source{document, name};
  const auto first = static_cast<std::ptrdiff_t>(problems_.size());
  for (const TomlProblem& problem : document.problems) {
    document_problem(source, problem.mark, problem.message, problem.note);
  }
  apply_table(source, document.root, "");
  // Mistakes of writing and of meaning together, from top to bottom.
  std::stable_sort(problems_.begin() + first, problems_.end(),
                   [](const Diagnostic& a, const Diagnostic& b) { return a.snippet.line < b.snippet.line; });
}

void ConfigBuilder::apply_table(const Source& source, const TomlNode& table, const std::string& prefix) {
  for (const TomlNode& node : table.children) {
    const std::string path = join_path(prefix, node.name);
    if (path == "networks") {
      apply_networks(source, node);
      continue;
    }
    const OptionKey* key = option_table().find(path);
    if (key == nullptr) {
      if (node.kind == TomlNode::Kind::kTable && option_table().is_section(path)) {
        apply_table(source, node, path);
      } else if (option_table().is_section(path)) {
        document_problem(source, node.key, fmt::format("'{}' is a section, not a value", printable(path)),
                         fmt::format("write [{}] and its keys below", path), kListKeys);
      } else {
        unknown_key(source, node, path, option_table());
      }
      continue;
    }
    Converted converted = convert_value(*key, node);
    if (!converted.problem.empty()) {
      document_problem(source, node.value, fmt::format("'{}' has an unusable value", path),
                       converted.problem);
      continue;
    }
    config_.settings_[path] = {std::move(converted.value), fmt::format("{}:{}", source.name, node.key.line)};
  }
}

void ConfigBuilder::apply_networks(const Source& source, const TomlNode& node) {
  const bool tables = node.kind == TomlNode::Kind::kArray &&
                      std::all_of(node.children.begin(), node.children.end(),
                                  [](const TomlNode& item) { return item.kind == TomlNode::Kind::kTable; });
  if (!tables || node.children.empty()) {
    document_problem(source, node.key, "'networks' must be a list of tables",
                     "one [[networks]] section for each network");
    return;
  }
  config_.networks_.clear();
  for (const TomlNode& item : node.children) {
    NetworkSettings network;
    network.model = std::get<std::string>(network_table().find("model")->default_value);
    const TomlMark& mark = item.key.line > 0 ? item.key : item.value;
    network.origin = fmt::format("{}:{}", source.name, mark.line);
    if (item.find("model") == nullptr) {
      document_problem(source, mark, "this network has no model", "add model = \"resnet20\"",
                       "'cohort list models' shows the names");
    }
    apply_network_table(source, item, "", network);
    config_.networks_.push_back(std::move(network));
  }
}

void ConfigBuilder::apply_network_table(const Source& source, const TomlNode& table,
                                        const std::string& prefix, NetworkSettings& network) {
  for (const TomlNode& node : table.children) {
    const std::string path = join_path(prefix, node.name);
    const OptionKey* key = network_table().find(path);
    if (key == nullptr) {
      if (node.kind == TomlNode::Kind::kTable && network_table().is_section(path)) {
        apply_network_table(source, node, path, network);
      } else {
        document_problem(source, node.key, fmt::format("unknown key '{}' of a network", printable(path)),
                         suggestion_note(path, network_table().suggest(path)),
                         fmt::format("a network has {}", join(network_table().paths(), ", ")));
      }
      continue;
    }
    Converted converted = convert_value(*key, node);
    if (!converted.problem.empty()) {
      document_problem(source, node.value, fmt::format("'{}' of a network has an unusable value", path),
                       converted.problem);
      continue;
    }
    set_network_value(network, *key, std::move(converted.value));
  }
}

void ConfigBuilder::set_network_value(NetworkSettings& network, const OptionKey& key, ConfigValue value) {
  if (key.path == "id") {
    network.id = std::get<std::string>(value);
  } else if (key.path == "model") {
    network.model = std::get<std::string>(value);
  } else if (key.path == "init") {
    network.init = std::get<std::string>(value);
  } else {
    network.overrides[key.path] = std::move(value);
  }
}

void ConfigBuilder::apply_text(const std::string& given, std::string_view text, const std::string& shown) {
  // A method's option may be given as the papers' tables name it: dml.norm for distill.dml.norm.
  const bool short_name =
      option_table().find(given) == nullptr && option_table().find("distill." + given) != nullptr;
  const std::string path = short_name ? "distill." + given : given;
  const OptionKey* key = option_table().find(path);
  if (key == nullptr) {
    const bool networks = path == "networks" || path.compare(0, 9, "networks.") == 0;
    const std::string suggestion = option_table().suggest(path);
    std::string note = suggestion.empty() ? "" : fmt::format("; did you mean '{}'?", suggestion);
    if (networks) note = "; networks are set with --net or in a file";
    if (option_table().is_section(path)) note = fmt::format("; it is a section: {}.KEY=VALUE", path);
    argument_problem(fmt::format("unknown key '{}'{}", printable(path), note), shown, kListKeys);
    return;
  }
  Converted converted = convert_text(*key, text);
  if (!converted.problem.empty()) {
    const bool named = !key->flag.empty() && shown == key->flag;
    argument_problem(named ? converted.problem : fmt::format("'{}': {}", path, converted.problem), shown);
    return;
  }
  config_.settings_[path] = {std::move(converted.value), shown};
}

void ConfigBuilder::apply_set(const std::string& assignment) {
  const std::size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) {
    argument_problem(fmt::format("'{}' is not KEY=VALUE", printable(assignment)), "--set",
                     "for example --set optim.lr=0.05");
    return;
  }
  const std::string_view whole = assignment;
  apply_text(std::string(trim(whole.substr(0, equals))), trim(whole.substr(equals + 1)), "--set");
}

void ConfigBuilder::apply_environment(const std::string& name, const std::string& text) {
  for (const OptionKey& key : option_table().keys()) {
    if (environment_name(key.path) == name) {
      apply_text(key.path, text, name);
      return;
    }
  }
  std::vector<std::string> names;
  for (const std::string& path : option_table().paths()) names.push_back(environment_name(path));
  const std::string suggestion = did_you_mean(name, names);
  Diagnostic diagnostic;
  diagnostic.severity = Severity::kWarning;
  diagnostic.headline = fmt::format("the environment variable {} is no setting{}{}", printable(name),
                                    suggestion.empty() ? "" : "; ", suggestion);
  config_.warnings_.push_back(std::move(diagnostic));
}

NetworkSettings ConfigBuilder::parse_net(const std::string& text) {
  NetworkSettings network;
  network.origin = "--net";
  const std::size_t colon = text.find(':');
  network.model = text.substr(0, colon);
  if (network.model.empty()) {
    argument_problem(fmt::format("'{}' names no model", printable(text)), "--net",
                     "for example --net resnet32 or --net resnet32:id=a,lr=0.05");
    return network;
  }
  if (colon == std::string::npos) return network;
  for (const std::string& part : split(text.substr(colon + 1), ',')) {
    const std::size_t equals = part.find('=');
    const std::string name = part.substr(0, equals);
    const OptionKey* key = network_table().find(name);
    if (key == nullptr) key = network_table().find("optim." + name);  // lr for optim.lr
    if (key == nullptr || key->path == "model") {
      std::vector<std::string> names;
      for (const std::string& path : network_table().paths()) names.push_back(leaf_of(path));
      const std::string suggestion = did_you_mean(name, names);
      argument_problem(fmt::format("unknown key '{}' of a network{}{}", printable(name),
                                   suggestion.empty() ? "" : "; ", suggestion),
                       "--net", "a network takes id, init, lr, weight_decay");
      continue;
    }
    if (equals == std::string::npos) {
      argument_problem(fmt::format("'{}' needs a value", printable(part)), "--net");
      continue;
    }
    Converted converted = convert_text(*key, std::string_view(part).substr(equals + 1));
    if (!converted.problem.empty()) {
      argument_problem(fmt::format("'{}': {}", name, converted.problem), "--net");
      continue;
    }
    set_network_value(network, *key, std::move(converted.value));
  }
  return network;
}

void ConfigBuilder::apply_nets(const std::vector<std::string>& nets) {
  if (nets.empty()) return;
  config_.networks_.clear();
  for (const std::string& text : nets) config_.networks_.push_back(parse_net(text));
}

void ConfigBuilder::check_networks() {
  std::vector<NetworkSettings>& networks = config_.networks_;
  if (networks.empty()) {
    for (int i = 0; i < 2; ++i) {
      NetworkSettings network;
      network.model = std::get<std::string>(network_table().find("model")->default_value);
      network.origin = "default";
      networks.push_back(std::move(network));
    }
  }
  if (networks.size() > static_cast<std::size_t>(kMaxNetworks)) {
    argument_problem(fmt::format("{} networks; at most {} can learn together", networks.size(), kMaxNetworks),
                     "");
  }
  std::set<std::string> taken;
  for (const NetworkSettings& network : networks) {
    if (network.id.empty()) continue;
    if (!is_network_id(network.id)) {
      argument_problem(fmt::format("'{}' is no network id", printable(network.id)), network.origin,
                       "up to 32 letters, digits, '_' and '-'; it names files");
    } else if (!taken.insert(network.id).second) {
      argument_problem(fmt::format("two networks have the id '{}'", network.id), network.origin);
    }
  }
  int next = 0;
  for (NetworkSettings& network : networks) {
    while (network.id.empty()) {
      const std::string id = automatic_id(next++);
      if (taken.insert(id).second) network.id = id;
    }
  }
}

void ConfigBuilder::apply_inits(const std::vector<std::string>& inits) {
  inits_.insert(inits_.end(), inits.begin(), inits.end());
}

// When every network has its id: ID=FILE goes to that network, the k-th plain FILE to the k-th network.
void ConfigBuilder::give_inits() {
  std::size_t plain = 0;
  for (const std::string& text : inits_) {
    const std::size_t equals = text.find('=');
    const std::string id = text.substr(0, equals);
    const auto network = std::find_if(config_.networks_.begin(), config_.networks_.end(),
                                      [&](const NetworkSettings& candidate) { return candidate.id == id; });
    if (text.empty() || equals + 1 == text.size()) {
      argument_problem(fmt::format("'{}' is neither FILE nor ID=FILE", printable(text)), "--init",
                       "for example --init a=teacher.safetensors");
    } else if (find_invalid_utf8(text)) {
      argument_problem("the path is not UTF-8", "--init");
    } else if (equals == std::string::npos) {
      if (plain == config_.networks_.size()) {
        argument_problem(fmt::format("more files than networks: '{}'", printable(text)), "--init");
      } else {
        config_.networks_[plain++].init = text;
      }
    } else if (network == config_.networks_.end()) {
      std::vector<std::string> ids;
      for (const NetworkSettings& candidate : config_.networks_) ids.push_back(candidate.id);
      argument_problem(fmt::format("no network has the id '{}'", printable(id)), "--init",
                       fmt::format("the networks are {}", join(ids, ", ")));
    } else {
      network->init = text.substr(equals + 1);
    }
  }
}

void ConfigBuilder::check_models() {
  const std::vector<std::string> names = names_of(model_entries());
  for (const NetworkSettings& network : config_.networks_) {
    if (network.model.empty() || std::find(names.begin(), names.end(), network.model) != names.end())
      continue;
    const std::string suggestion = did_you_mean(network.model, names);
    argument_problem(fmt::format("unknown model '{}'{}{}", printable(network.model),
                                 suggestion.empty() ? "" : "; ", suggestion),
                     network.origin, "'cohort list models' shows the names");
  }
}

void ConfigBuilder::check_fidelity() {
  const std::string& name = config_.text("fidelity");
  if (name.empty()) return;
  for (const distill::MethodInfo& info : distill::registry()) {
    if (info.name != config_.text("method")) continue;
    std::vector<std::string> names;
    for (const distill::Fidelity& fidelity : info.fidelities) names.push_back(fidelity.name);
    if (std::find(names.begin(), names.end(), name) != names.end()) return;
    const std::string suggestion = did_you_mean(name, names);
    argument_problem(fmt::format("'{}' is no variant of {}{}{}", printable(name), info.name,
                                 suggestion.empty() ? "" : "; ", suggestion),
                     config_.origin("fidelity"),
                     names.empty() ? fmt::format("{} has none; 'cohort list fidelities' shows all", info.name)
                                   : fmt::format("{} has {}; 'cohort list fidelities' shows what they set",
                                                 info.name, join(names, ", ")));
  }
}

void ConfigBuilder::check_together() {
  if (config_.number("optim.warmup_epochs") > static_cast<double>(config_.integer("train.epochs"))) {
    argument_problem("'optim.warmup_epochs' is longer than the run (train.epochs)",
                     config_.origin("optim.warmup_epochs"));
  }
  if (!problems_.empty()) return;  // a method built from wrong values would only repeat them
  try {
    make_method(config_)->check_members(static_cast<int>(config_.networks_.size()));
  } catch (const Error& error) {
    argument_problem(error.what(), "", error.hint());
  }
}

Config ConfigBuilder::finish() {
  check_networks();
  give_inits();
  check_models();
  check_fidelity();
  check_together();
  if (!problems_.empty()) throw UsageErrors(std::move(problems_));
  return std::move(config_);
}

}  // namespace cohort::tools
