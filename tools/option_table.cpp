#include "tools/option_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "kernels/base/error.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

using Kind = TomlNode::Kind;

std::string section_of(std::string_view path) {
  const std::size_t dot = path.rfind('.');
  return dot == std::string_view::npos ? std::string() : std::string(path.substr(0, dot));
}

std::string_view leaf_of(std::string_view path) {
  const std::size_t dot = path.rfind('.');
  return dot == std::string_view::npos ? path : path.substr(dot + 1);
}

std::string bound(const OptionKey& key, double value) {
  const bool whole = key.type == KeyType::kInt || value == std::floor(value);
  if (whole && std::abs(value) < 1e15) return fmt::format("{}", static_cast<std::int64_t>(value));
  return format_float(value);
}

std::string describe_range(const OptionKey& key) {
  const bool low = std::isfinite(key.min);
  const bool high = std::isfinite(key.max) && key.max < 1e15;
  std::string text;
  if (low && high && !key.above_min && !key.below_max) {
    return fmt::format(" from {} to {}", bound(key, key.min), bound(key, key.max));
  }
  if (low) text += fmt::format(" {} {}", key.above_min ? "above" : "of at least", bound(key, key.min));
  if (high) {
    text += fmt::format("{} {} {}", low ? " and" : "", key.below_max ? "below" : "of at most",
                        bound(key, key.max));
  }
  return text;
}

bool in_range(const OptionKey& key, double value) {
  if (!std::isfinite(value)) return false;
  if (key.above_min ? value <= key.min : value < key.min) return false;
  return key.below_max ? value < key.max : value <= key.max;
}

Converted bad(std::string problem) {
  return {{}, std::move(problem)};
}

std::string unknown_choice(const OptionKey& key, const std::string& word) {
  const std::string suggestion = did_you_mean(word, key.choices);
  return fmt::format("'{}' is not {}{}{}", printable(word), describe_domain(key),
                     suggestion.empty() ? "" : "; ", suggestion);
}

Converted convert_number(const OptionKey& key, const TomlNode& node) {
  const bool number = node.kind == Kind::kInt || node.kind == Kind::kFloat;
  if (!number || (key.type == KeyType::kInt && node.kind != Kind::kInt)) {
    return bad(fmt::format("expected {}, not {}", describe_domain(key), toml_kind_name(node.kind)));
  }
  const double value = node.kind == Kind::kInt ? static_cast<double>(node.integer) : node.real;
  if (!in_range(key, value)) {
    const std::string shown = node.kind == Kind::kInt ? std::to_string(node.integer) : format_float(value);
    return bad(fmt::format("expected {}, not {}", describe_domain(key), shown));
  }
  if (key.type == KeyType::kInt) return {node.integer, {}};
  return {value, {}};
}

Converted convert_string(const OptionKey& key, const TomlNode& node) {
  if (node.kind != Kind::kString) {
    return bad(fmt::format("expected {}, not {}", describe_domain(key), toml_kind_name(node.kind)));
  }
  const bool listed = key.choices.empty() ||
                      std::find(key.choices.begin(), key.choices.end(), node.text) != key.choices.end();
  if (!listed) return bad(unknown_choice(key, node.text));
  if (node.text.find('\0') != std::string::npos) return bad("a NUL character is not allowed");
  if (key.type == KeyType::kPath && node.text.size() > 4095) return bad("a path has at most 4095 bytes");
  return {node.text, {}};
}

// ["mixup", "noise"] for "mixup,noise".
TomlNode joined_list(const TomlNode& list) {
  TomlNode node;
  node.kind = Kind::kString;
  for (const TomlNode& item : list.children) {
    if (item.kind != Kind::kString) return item;  // its kind is the mistake
    node.text += (node.text.empty() ? "" : ",") + item.text;
  }
  return node;
}

TomlNode string_node(std::string_view text) {
  TomlNode node;
  node.kind = Kind::kString;
  node.text = std::string(text);
  return node;
}

}  // namespace

OptionTable::OptionTable(std::vector<OptionKey> keys) : keys_(std::move(keys)) {
  std::set<std::string> seen;
  for (const OptionKey& key : keys_) {
    check(seen.insert(key.path).second, "option table: a key is listed twice");
    check(key.flag.empty() || seen.insert(key.flag).second, "option table: a flag is listed twice");
    check(seen.insert(environment_name(key.path)).second, "option table: two keys share an environment name");
  }
}

const OptionKey* OptionTable::find(std::string_view path) const {
  const auto it =
      std::find_if(keys_.begin(), keys_.end(), [&](const OptionKey& key) { return key.path == path; });
  return it == keys_.end() ? nullptr : &*it;
}

const OptionKey* OptionTable::find_flag(std::string_view flag) const {
  const auto it =
      std::find_if(keys_.begin(), keys_.end(), [&](const OptionKey& key) { return key.flag == flag; });
  return it == keys_.end() || flag.empty() ? nullptr : &*it;
}

std::vector<std::string> OptionTable::paths() const {
  std::vector<std::string> result;
  for (const OptionKey& key : keys_) result.push_back(key.path);
  return result;
}

bool OptionTable::is_section(std::string_view path) const {
  const std::string prefix = std::string(path) + ".";
  return std::any_of(keys_.begin(), keys_.end(),
                     [&](const OptionKey& key) { return key.path.compare(0, prefix.size(), prefix) == 0; });
}

std::string OptionTable::suggest(std::string_view path) const {
  const std::string section = section_of(path);
  std::vector<std::string> siblings;
  for (const OptionKey& key : keys_) {
    if (section_of(key.path) == section) siblings.emplace_back(leaf_of(key.path));
  }
  const std::string prefix = section.empty() ? "" : section + ".";
  if (const std::string leaf = nearest(leaf_of(path), siblings); !leaf.empty()) return prefix + leaf;
  for (const OptionKey& key : keys_) {  // the right word in the wrong section
    if (leaf_of(key.path) == leaf_of(path)) return key.path;
  }
  return nearest(path, paths());
}

std::string environment_name(std::string_view path) {
  std::string name = "COHORT_" + upper(path);
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

std::string describe_domain(const OptionKey& key) {
  switch (key.type) {
    case KeyType::kBool:
      return "true or false";
    case KeyType::kInt:
      return "an integer" + describe_range(key);
    case KeyType::kFloat:
      return "a number" + describe_range(key);
    case KeyType::kPath:
      return "a path";
    case KeyType::kText:
      return key.joins_lists ? "text or a list of texts" : "text";
    case KeyType::kChoice:
      break;
  }
  std::vector<std::string> choices = key.choices;
  for (std::string& choice : choices) {
    if (choice.empty()) choice = "\"\"";
  }
  return "one of " + join(choices, ", ");
}

Converted convert_value(const OptionKey& key, const TomlNode& node) {
  Converted converted;
  switch (key.type) {
    case KeyType::kBool:
      if (node.kind != Kind::kBool) {
        return bad(fmt::format("expected true or false, not {}", toml_kind_name(node.kind)));
      }
      converted.value = node.boolean;
      break;
    case KeyType::kInt:
    case KeyType::kFloat:
      converted = convert_number(key, node);
      break;
    case KeyType::kText:
    case KeyType::kChoice:
    case KeyType::kPath:
      converted =
          convert_string(key, key.joins_lists && node.kind == Kind::kArray ? joined_list(node) : node);
      break;
  }
  if (converted.problem.empty() && key.problem != nullptr) converted.problem = key.problem(converted.value);
  return converted;
}

Converted convert_text(const OptionKey& key, std::string_view text) {
  const bool is_text =
      key.type == KeyType::kText || key.type == KeyType::kChoice || key.type == KeyType::kPath;
  if (find_invalid_utf8(text)) return bad("the value is not UTF-8");
  const char first = text.empty() ? '\0' : text.front();
  const bool toml = first == '"' || first == '\'' || (key.joins_lists && first == '[');
  if (is_text && !toml) return convert_value(key, string_node(text));
  const TomlDocument document = read_toml(fmt::format("v = {}", text));
  if (document.problems.empty() && document.root.children.size() == 1) {
    return convert_value(key, document.root.children[0]);
  }
  // [mixup, noise] is no TOML, but what a user of a shell types.
  if (key.joins_lists && first == '[' && text.back() == ']') {
    std::vector<std::string> words;
    for (const std::string& word : split(text.substr(1, text.size() - 2), ','))
      words.emplace_back(trim(word));
    return convert_value(key, string_node(join(words, ",")));
  }
  return bad(fmt::format("expected {}, not '{}'", describe_domain(key), printable(text)));
}

std::string to_toml(const ConfigValue& value) {
  struct Writer {
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(std::int64_t v) const { return std::to_string(v); }
    std::string operator()(double v) const { return format_float(v); }
    std::string operator()(const std::string& v) const { return toml_quote(v); }
  };
  return std::visit(Writer{}, value);
}

}  // namespace cohort::tools
