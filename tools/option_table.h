// The one table of settings. It drives configuration files, COHORT_* variables, --set, named flags, --help,
// `cohort list options`, the resolved config.toml and the range checks: a setting is added here and nowhere
// else.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tools/toml_reader.h"

namespace cohort::tools {

enum class KeyType { kBool, kInt, kFloat, kText, kChoice, kPath };

using ConfigValue = std::variant<bool, std::int64_t, double, std::string>;

struct OptionKey {
  std::string path;  // "train.epochs"
  KeyType type = KeyType::kText;
  ConfigValue default_value;
  double min = -std::numeric_limits<double>::infinity();  // of numbers
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;  // min itself is not allowed
  bool below_max = false;
  bool joins_lists = false;            // kText that also takes a list of texts: ["a", "b"] is "a,b"
  std::vector<std::string> choices{};  // of kChoice
  std::string help{};
  std::string flag{};                                    // "--epochs"; empty: through --set only
  std::string metavar{};                                 // "N" in --help
  std::string alias{};                                   // a second name of the flag: "--batch"
  std::string (*problem)(const ConfigValue&) = nullptr;  // a further check; empty text: fine
};

class OptionTable {
 public:
  explicit OptionTable(std::vector<OptionKey> keys);

  const std::vector<OptionKey>& keys() const { return keys_; }
  const OptionKey* find(std::string_view path) const;
  const OptionKey* find_flag(std::string_view flag) const;
  std::vector<std::string> paths() const;
  // "train", "distill.kd": every proper prefix of a key.
  bool is_section(std::string_view path) const;
  // The most plausible key for a misspelt or misplaced one; empty when none is near.
  std::string suggest(std::string_view path) const;

 private:
  std::vector<OptionKey> keys_;
};

// All settings but the networks, and the settings of one [[networks]] entry.
const OptionTable& option_table();
const OptionTable& network_table();

// "train.epochs" -> "COHORT_TRAIN_EPOCHS".
std::string environment_name(std::string_view path);

// "an integer from 1 to 65536", "one of stop, skip, ignore".
std::string describe_domain(const OptionKey& key);

// A value that fits the key, or the reason why there is none.
struct Converted {
  ConfigValue value;
  std::string problem;
};
Converted convert_value(const OptionKey& key, const TomlNode& node);
// From --set, a flag or the environment: TOML, where text may go without quotes.
Converted convert_text(const OptionKey& key, std::string_view text);

std::string to_toml(const ConfigValue& value);

}  // namespace cohort::tools
